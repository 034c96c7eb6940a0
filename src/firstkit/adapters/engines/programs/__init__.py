# SPDX-License-Identifier: Apache-2.0
"""Small programs that are put beside an engine on a cluster; each stands alone and imports nothing of firstkit."""
