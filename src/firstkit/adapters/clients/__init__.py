# SPDX-License-Identifier: Apache-2.0
"""How the client commands reach an installation: over HTTP, or through the admin socket of a state folder."""
