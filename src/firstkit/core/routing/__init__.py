# SPDX-License-Identifier: Apache-2.0
"""Which instance takes a request, and why."""
