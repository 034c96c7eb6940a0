# SPDX-License-Identifier: Apache-2.0
"""How bytes reach an instance."""
