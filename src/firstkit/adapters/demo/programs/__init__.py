# SPDX-License-Identifier: Apache-2.0
"""Small programs for another environment's Python; each stands alone and imports nothing of firstkit."""
