# SPDX-License-Identifier: Apache-2.0
"""What the data plane and the life cycle cost, measured beside nginx and other gateways in the same run."""
