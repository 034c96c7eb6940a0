# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference/configuration.md from the configuration's models and the engines' adapters."""

from pathlib import Path

from firstkit.adapters.engines.registry import load_engines
from firstkit.config.reference import render_reference

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render_reference(load_engines()), encoding="utf-8")
    print(f"first: wrote {PAGE}")
