# SPDX-License-Identifier: Apache-2.0
"""How much of something one may have: per minute, at once, and beside others."""
