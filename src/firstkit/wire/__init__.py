# SPDX-License-Identifier: Apache-2.0
"""Boundary models: what crosses the wire, in every dialect."""
