# SPDX-License-Identifier: Apache-2.0
"""Rules about the source that no linter checks: layers, sizes, headers, names, addresses."""

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "firstkit"
SIZES = tomllib.loads((Path(__file__).parent / "sizes.toml").read_text())

LAYERS: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "ports": frozenset({"core"}),
    "wire": frozenset({"core", "ports"}),
    "config": frozenset({"core", "ports"}),
    "services": frozenset({"core", "ports"}),
    "adapters": frozenset({"core", "ports"}),
    "dataplane": frozenset({"core", "ports", "services", "wire"}),
    "apps": frozenset(
        {"core", "ports", "wire", "config", "services", "adapters", "dataplane", "launcher"},
    ),
    "testing": frozenset(
        {"core", "ports", "wire", "config", "services", "adapters", "dataplane", "apps", "launcher"},
    ),
    "launcher": frozenset(),
}
"""What each package may import of firstkit beside itself."""

CORE_BANNED = frozenset(
    """
    asyncio concurrent ctypes fcntl http io logging mmap multiprocessing os pathlib random resource secrets select
    selectors shutil signal socket socketserver sqlite3 ssl subprocess sys tempfile threading time urllib
    """.split(),  # noqa: SIM905 a list of words is read and kept in order more easily
)
"""Standard modules that act, read a clock or hold state; urllib.parse is the one exception."""

NAMES_BANNED = frozenset({"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"})


@cache
def tracked(*patterns: str) -> tuple[Path, ...]:
    """List the repository's files, those not yet added included, ignored ones not."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(path for name in listing.split("\0") if name and (path := ROOT / name).is_file())


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def modules(folder: Path = PACKAGE) -> list[Path]:
    return [path for path in tracked("*.py") if path.is_relative_to(folder)]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each module that a file imports anywhere in it, absolute, with its line."""
    package = [*path.relative_to(ROOT / "src").parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            if module == "firstkit":
                for alias in node.names:
                    yield f"firstkit.{alias.name}", node.lineno
            else:
                yield module, node.lineno


def test_the_package_has_modules() -> None:
    assert len(modules()) > 1


def test_every_package_is_a_named_layer() -> None:
    found = {path.relative_to(PACKAGE).parts[0] for path in modules() if path.parent != PACKAGE}
    assert found <= set(LAYERS)


def test_imports_point_inward_only() -> None:
    wrong: list[str] = []
    for path in modules():
        if path.parent == PACKAGE:
            continue
        layer = path.relative_to(PACKAGE).parts[0]
        allowed = LAYERS[layer] | {layer}
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] != "firstkit" or len(parts) == 1:
                continue
            about_itself = parts[1] == "__version__" and layer != "launcher"
            if parts[1] not in allowed and not about_itself:
                wrong.append(f"{name(path)}:{line}: {layer} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_core_imports_only_the_pure_standard_library() -> None:
    wrong: list[str] = []
    for path in modules(PACKAGE / "core"):
        for module, line in imports(path):
            top = module.split(".")[0]
            pure = top in sys.stdlib_module_names and (top not in CORE_BANNED or module == "urllib.parse")
            if top != "firstkit" and not pure:
                wrong.append(f"{name(path)}:{line}: core imports {module}")
    assert not wrong, "\n".join(wrong)


def test_core_asks_no_clock() -> None:
    wrong = [
        f"{name(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in modules(PACKAGE / "core")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"now", "utcnow", "today"}
        and ast.unparse(node.func.value).split(".")[-1] in {"datetime", "date"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_launcher_imports_only_the_standard_library_and_itself() -> None:
    wrong = [
        f"{name(path)}:{line}: {module}"
        for path in modules(PACKAGE / "launcher")
        for module, line in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names and not (module + ".").startswith("firstkit.launcher.")
    ]
    assert not wrong, "\n".join(wrong)


def test_a_file_is_short_or_says_why_not() -> None:
    allowed: dict[str, str] = SIZES["files"]
    long = {
        name(path): count for path in modules() if (count := len(path.read_text().splitlines())) > SIZES["max_file"]
    }
    assert not {file: count for file, count in long.items() if file not in allowed}, (
        "split it, or list it in sizes.toml"
    )
    assert not set(allowed) - set(long), "listed in sizes.toml, yet short or gone: take it off the list"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function's qualified name and its length in lines, docstring not counted."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}.{child.name}" if prefix else child.name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (child.end_lineno or child.lineno) - child.lineno + 1
                if ast.get_docstring(child, clean=False) is not None:
                    docstring = child.body[0]
                    length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
                yield inner, length
            yield from visit(child, inner)

    yield from visit(tree(path), "")


def test_a_function_is_short_or_says_why_not() -> None:
    allowed: dict[str, str] = SIZES["functions"]
    long = {
        f"{name(path)}::{function}": length
        for path in modules()
        for function, length in functions(path)
        if length > SIZES["max_function"]
    }
    assert not {key: length for key, length in long.items() if key not in allowed}, "split it, or list it in sizes.toml"
    assert not set(allowed) - set(long), "listed in sizes.toml, yet short or gone: take it off the list"


def test_a_listed_size_has_a_reason() -> None:
    for reasons in (SIZES["files"], SIZES["functions"]):
        assert all(isinstance(reason, str) and len(reason) > 15 for reason in reasons.values())


def test_every_module_is_described_in_one_line() -> None:
    wrong: list[str] = []
    for path in tracked("src/*.py", "tests/*.py", "scripts/*.py", "benchmarks/*.py"):
        docstring = ast.get_docstring(tree(path))
        if not docstring or not re.fullmatch(r".*[.?!:]", docstring.splitlines()[0]):
            wrong.append(name(path))
    assert not wrong, f"no docstring whose first line is a sentence: {wrong}"


def test_every_source_file_names_its_licence() -> None:
    wrong = [
        name(path)
        for path in tracked("*.py", "*.sh", "*.toml", "*.mjs", "*.js", "Makefile", ".ci/run")
        if not any(
            "SPDX-License-Identifier: Apache-2.0" in line for line in path.read_text(errors="replace").splitlines()[:2]
        )
    ]
    assert not wrong, f"no SPDX line at the top: {wrong}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    wrong = [name(path) for path in modules() if {path.stem, *path.relative_to(PACKAGE).parts[:-1]} & NAMES_BANNED]
    assert not wrong


def test_no_lock_holds_an_address_or_a_path() -> None:
    wrong = [
        f"{name(path)}:{number}: {line}"
        for path in tracked("locks/*", "*package-lock.json")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\w+://|\"resolved\"|find-links|index-url", line)
        and not re.match(r"\s*\"(url|funding|homepage)\":", line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("lock", ["product", "dev", "demo", "build", "vllm", "uv"])
def test_every_locked_package_is_pinned_and_hashed(lock: str) -> None:
    path = next((ROOT / "locks").glob(f"{lock}.lock*"))
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).strip())
    wrong = [entry for entry in entries if not re.match(r"[\w.\[\]-]+==\S+", entry) or "--hash=sha256:" not in entry]
    assert not wrong


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'__version__ = "{project["version"]}"' in (PACKAGE / "__init__.py").read_text()


def test_nothing_is_left_to_be_done_in_a_comment() -> None:
    wrong: list[str] = []
    for path in tracked("src/*.py", "tests/*.py", "scripts/*.py"):
        with path.open("rb") as file:
            wrong += [
                f"{name(path)}:{token.start[0]}: {token.string}"
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string)
            ]
    assert not wrong, "\n".join(wrong)


def test_scripts_can_be_run() -> None:
    wrong = [name(path) for path in tracked("scripts/*.sh", ".ci/run") if not path.stat().st_mode & 0o100]
    assert not wrong
