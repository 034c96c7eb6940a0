# SPDX-License-Identifier: Apache-2.0
"""OpenAI's API at the boundary."""
