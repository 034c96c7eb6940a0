# SPDX-License-Identifier: Apache-2.0
"""How many instances a deployment should have: signals in, a decision with its reason out."""
