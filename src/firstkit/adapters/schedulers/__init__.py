# SPDX-License-Identifier: Apache-2.0
"""Scheduler dialects: pure builders of commands and parsers of what they print."""
