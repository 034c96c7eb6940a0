# SPDX-License-Identifier: Apache-2.0
"""The life of a scheduler job: states, events, and the one table of transitions."""
