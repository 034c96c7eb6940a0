# SPDX-License-Identifier: Apache-2.0
"""How firstkit tells what it does: log lines and metrics."""
