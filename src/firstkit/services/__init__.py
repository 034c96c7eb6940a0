# SPDX-License-Identifier: Apache-2.0
"""Services act: they carry out what core decides."""
