# SPDX-License-Identifier: Apache-2.0
"""The migrations, oldest first by name; each says with SERVES_FROM which older code it goes on serving."""
