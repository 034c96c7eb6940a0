# SPDX-License-Identifier: Apache-2.0
"""The top process of a scheduler job: standard library only, Python 3.9 and later, imports nothing else of firstkit."""
