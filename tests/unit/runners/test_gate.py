# SPDX-License-Identifier: Apache-2.0
"""The far end of the ssh runner is one file for the Pythons found on login nodes."""

import ast
import sys
from importlib.resources import files

from firstkit.adapters.runners import gate
from firstkit.adapters.runners.local import ENVIRONMENT

SOURCE = files("firstkit.adapters.runners").joinpath("gate.py").read_text()


def test_it_parses_on_python_3_6_so_that_it_can_say_what_it_needs() -> None:
    ast.parse(SOURCE, feature_version=(3, 6))
    future = [
        node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert not future
    first = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    assert "version_info" in ast.unparse(first.test)


def test_only_the_standard_library_is_imported() -> None:
    for node in ast.walk(ast.parse(SOURCE)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names


def test_commands_see_there_what_they_see_here() -> None:
    assert set(gate.ENVIRONMENT) >= set(ENVIRONMENT)
