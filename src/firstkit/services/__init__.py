# SPDX-License-Identifier: Apache-2.0
"""What acts on the core's decisions: holds state, takes time and randomness from outside, knows no HTTP."""
