# SPDX-License-Identifier: Apache-2.0
"""Composition roots: gateway, api, controller, cli."""
