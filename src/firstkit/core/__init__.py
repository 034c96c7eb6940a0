# SPDX-License-Identifier: Apache-2.0
"""Decisions as pure functions and transition tables; imports nothing but the pure standard library."""
