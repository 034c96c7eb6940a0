# SPDX-License-Identifier: Apache-2.0
"""The management API: an ASGI app in a process of its own, to which the gateway relays what is not inference."""
