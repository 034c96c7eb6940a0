# SPDX-License-Identifier: Apache-2.0
"""Anthropic's API at the boundary."""
