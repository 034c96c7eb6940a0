# SPDX-License-Identifier: Apache-2.0
"""How a gateway judges its instances by itself."""
