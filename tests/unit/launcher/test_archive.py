# SPDX-License-Identifier: Apache-2.0
"""What is put on a cluster: one file, always the same bytes, for the Pythons found there."""

import ast
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import firstkit.launcher
from firstkit.adapters import launcher_zip

SOURCES = sorted(Path(firstkit.launcher.__path__[0]).glob("*.py"))


def test_the_archive_is_the_same_every_time_and_named_by_its_content() -> None:
    first = launcher_zip.build()
    launcher_zip.build.cache_clear()
    second = launcher_zip.build()
    assert first is not second
    assert first == second
    assert first.name == f"launcher-{hashlib.sha256(first.data).hexdigest()[:12]}.pyz"
    assert first.data.startswith(b"#!/usr/bin/env python3\n")


def test_the_archive_holds_the_package_and_nothing_else() -> None:
    with zipfile.ZipFile(io.BytesIO(launcher_zip.build().data)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == {"__main__.py"} | {f"firstkit_launcher/{path.name}" for path in SOURCES}


def test_every_file_parses_on_python_3_9() -> None:
    for path in SOURCES:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_the_first_file_parses_on_python_3_6_and_uses_nothing_that_2_7_lacks() -> None:
    text = next(path for path in SOURCES if path.name == "__main__.py").read_text()
    tree = ast.parse(text, feature_version=(3, 6))
    assert text.isascii()
    newer = (ast.JoinedStr, ast.AnnAssign, ast.AsyncFunctionDef, ast.NamedExpr, ast.Nonlocal, ast.Starred)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]


def test_only_the_standard_library_is_imported() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in sys.stdlib_module_names, path


def test_nothing_newer_than_python_3_9_is_called() -> None:
    """Names of the standard library that came later and would be tempting."""
    newer = {"TaskGroup", "StrEnum", "ExceptionGroup", "pairwise", "assert_never", "Runner", "timeout_at"}
    for path in SOURCES:
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not used & newer, path
        assert "slots=True" not in path.read_text(), path
