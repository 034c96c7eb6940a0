# SPDX-License-Identifier: Apache-2.0
"""The benchmarks are a package at the root of the repository, which is not otherwise on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
