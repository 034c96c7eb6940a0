# SPDX-License-Identifier: Apache-2.0
"""The life of a running engine: states, events, and the one table of transitions."""
