# SPDX-License-Identifier: Apache-2.0
"""Doubles and worlds for tests, shipped so that those who write adapters can use them too."""
