# SPDX-License-Identifier: Apache-2.0
"""Engine adapters: one module for each inference server's software."""
