# SPDX-License-Identifier: Apache-2.0
"""The documentation keeps up with the code: generated pages are current, and links lead somewhere."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from firstkit.adapters.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_docs", ROOT / "scripts" / "render-docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """List the names that a page's headings can be linked by, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose(page))}


@pytest.mark.parametrize("name", [*renderer().PAGES, *renderer().PARTS])
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == renderer().rendered(name), "run .venv/bin/python scripts/render-docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_to_something_in_the_repository(page: Path) -> None:
    broken: list[str] = []
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_one_title_and_closes_what_it_opens(page: Path) -> None:
    text = page.read_text()
    titles = [line for line in prose(page).splitlines() if line.startswith("# ")]
    assert len(titles) == 1
    assert sum(line.startswith("```") for line in text.splitlines()) % 2 == 0


def test_every_alert_is_about_metrics_that_exist_and_leads_to_its_section_of_the_runbook() -> None:
    folder = DOCS / "operations"
    (group,) = YAML(typ="safe").load(folder / "alerts.yaml")["groups"]
    headings = anchors(folder / "runbook.md")
    assert len(group["rules"]) >= 6
    for rule in group["rules"]:
        for metric in re.findall(r"\bfirst_\w+", rule["expr"]):
            assert metric in METRICS, rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "runbook.md"
        assert anchor in headings, rule["alert"]
