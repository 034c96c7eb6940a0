# SPDX-License-Identifier: Apache-2.0
"""Federated Inference Resource Scheduling Toolkit: HPC clusters as one OpenAI-compatible service."""

__version__ = "0.1.0"
