# SPDX-License-Identifier: Apache-2.0
"""Where a cluster's commands run."""
