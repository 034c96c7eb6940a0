# SPDX-License-Identifier: Apache-2.0
"""Loads one configuration: all mistakes at once, or settings and catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from firstkit.config.build import build_catalog, build_settings
from firstkit.config.catalog_checks import check_catalog
from firstkit.config.catalog_sections import File
from firstkit.config.disk import Disk
from firstkit.config.document import MapNode, Place, ScalarNode
from firstkit.config.drafts import Draft
from firstkit.config.engine_checks import ask_engines, check_kinds
from firstkit.config.environment import VARIABLES
from firstkit.config.path_checks import check_paths
from firstkit.config.process_checks import check_process
from firstkit.config.reading import decode, read_bytes, read_document
from firstkit.config.report import Report, ordered
from firstkit.config.shape import check_shape
from firstkit.config.value_checks import check_values
from firstkit.core.catalog import Catalog
from firstkit.core.errors import ConfigError
from firstkit.core.findings import Finding
from firstkit.core.settings import Settings
from firstkit.ports.engine import Engine

DEFAULT_DATA = "./.first"
PROCESS_SECTIONS = ("gateway", "store", "identity", "controller")
CATALOG_SECTIONS = ("clusters", "models", "deployments")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What one file says. `document` is its text as given; `tree` serves `explain`."""

    settings: Settings
    catalog: Catalog
    document: str
    source: str
    warnings: tuple[Finding, ...] = ()
    file: File = field(default_factory=File, repr=False)
    tree: MapNode = field(default_factory=lambda: MapNode(place=Place(line=1, column=1)), repr=False)


def load(
    source: Path | str,
    *,
    data_dir: Path | None = None,
    environ: Mapping[str, str] = _NOTHING,
    engines: Mapping[str, Engine] | None = None,
    given: Mapping[str, str] = _NOTHING,
    name: str = "first.yaml",
    folder: Path | None = None,
    disk: Disk | None = None,
) -> Loaded:
    """Load a file (a Path) or a text (a str, then called `name`); raises ConfigError with every finding, nothing else.

    Relative paths of a text count from `folder`, by default the working folder; those of a file from the file's own.

    What the command line gives (`data_dir`, and `given` by dotted key such as `gateway.listen`) wins over the
    environment, and that over the file. Without `engines` the engines' own keys are not checked. `disk` is where paths
    are looked at, save those of a cluster whose runner is elsewhere.
    """
    read = _read(source, name=name, folder=folder, data_dir=data_dir, environ=environ, given=given)
    report = Report(read.root, source=read.name, findings=read.findings)
    file = check_shape(report)
    draft = Draft.of(read.root)
    check_catalog(report, draft)
    check_values(report, draft)
    check_kinds(report, draft, engines)
    check_process(report, draft, data_dir=read.data_dir)
    check_paths(report, draft, disk=disk or Disk(), folder=read.folder, data_dir=read.data_dir)
    ask_engines(report, draft, engines)
    if isinstance(source, Path) and (disk or Disk()).changed_by_others(source):
        report.warn(
            (),
            f"every user of this machine can change {source}, and thereby run any command on every cluster",
            hint=f"chmod o-w {source}",
        )
    if file is None or report.mistakes:
        raise failure(report.mistakes)
    return Loaded(
        settings=build_settings(file, data_dir=read.data_dir, folder=read.folder),
        catalog=build_catalog(file),
        document=read.text,
        source=read.name,
        warnings=report.warnings,
        file=file,
        tree=read.root,
    )


def load_settings(
    source: Path | str,
    *,
    data_dir: Path | None = None,
    environ: Mapping[str, str] = _NOTHING,
    given: Mapping[str, str] = _NOTHING,
    name: str = "first.yaml",
    disk: Disk | None = None,
) -> Settings:
    """Load the process settings alone, for a process that takes the catalog from the store.

    A mistake in the catalog's sections, or weights that are gone, must not keep a gateway from starting.
    """
    read = _read(source, name=name, folder=None, data_dir=data_dir, environ=environ, given=given)
    for section in CATALOG_SECTIONS:
        read.root.entries.pop(section, None)
    here = tuple(CATALOG_SECTIONS)
    findings = [finding for finding in read.findings if not finding.path.startswith(here)]
    report = Report(read.root, source=read.name, findings=findings)
    file = check_shape(report)
    draft = Draft.of(read.root)
    check_process(report, draft, data_dir=read.data_dir)
    check_paths(report, draft, disk=disk or Disk(), folder=read.folder, data_dir=read.data_dir)
    if file is None or report.mistakes:
        raise failure(report.mistakes)
    return build_settings(file, data_dir=read.data_dir, folder=read.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A text that is YAML, with what environment and command line say put in."""

    root: MapNode
    findings: list[Finding]
    name: str
    text: str
    folder: Path
    data_dir: Path


def _read(
    source: Path | str,
    *,
    name: str,
    folder: Path | None,
    data_dir: Path | None,
    environ: Mapping[str, str],
    given: Mapping[str, str],
) -> _Read:
    if isinstance(source, Path):
        name, folder = str(source), source.absolute().parent
        data = read_bytes(source)
        text = data if isinstance(data, Finding) else decode(data, source=name)
    else:
        text, folder = source, folder or Path.cwd()
    if isinstance(text, Finding):
        raise failure([text])
    root, findings = read_document(text, source=name)
    if root is None:
        raise failure(findings)
    _override(root, environ, given)
    state = (data_dir or Path(environ.get("FIRST_DATA") or DEFAULT_DATA)).absolute()
    return _Read(root=root, findings=findings, name=name, text=text, folder=folder, data_dir=state)


def catalog_from_document(document: str, *, revision: int = 0) -> Catalog:
    """Read the catalog of a revision that was checked when it was applied.

    Process settings and paths are not looked at: they are other machines' business, and may have changed since.
    """
    name = f"revision {revision}"
    root, findings = read_document(document, source=name)
    if root is None:
        raise failure(findings)
    for section in PROCESS_SECTIONS:
        root.entries.pop(section, None)
    report = Report(root, source=name, findings=findings)
    file = check_shape(report)
    check_catalog(report, Draft.of(root))
    if file is None or report.mistakes:
        raise failure(report.mistakes)
    return build_catalog(file, revision=revision)


def failure(findings: list[Finding] | tuple[Finding, ...]) -> ConfigError:
    """Make the one error that says everything."""
    mistakes = ordered(finding for finding in findings if not finding.warning)
    return ConfigError("\n".join(str(finding) for finding in mistakes), findings=mistakes)


def _override(root: MapNode, environ: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Put into the tree what environment and command line say; the place of such a value is where it came from."""
    found = [
        (variable.key, variable.name, environ[variable.name])
        for variable in VARIABLES
        if variable.key and environ.get(variable.name)
    ]
    found += [(tuple(key.split(".")), "command line", value) for key, value in given.items()]
    for path, origin, value in found:
        place = Place(line=0, column=0, source=origin)
        holder = _holder(root, path[:-1], place)
        if holder is None:
            continue
        last, store = path[-1], holder.entries.get("store")
        if path == ("store",) and isinstance(store, MapNode):  # its other keys stay
            holder, last = store, "url"
        holder.entries[last] = ScalarNode(place=place, value=value, text=value, plain=False)
        holder.keys[last] = place


def _holder(root: MapNode, path: tuple[str, ...], place: Place) -> MapNode | None:
    """Find the mapping at a path, made where there is none; None where something else stands, a mistake anyway."""
    holder = root
    for step in path:
        below = holder.entries.get(step)
        if below is None or (isinstance(below, ScalarNode) and below.value is None):
            below = MapNode(place=place)
            holder.entries[step] = below
            holder.keys.setdefault(step, place)
        if not isinstance(below, MapNode):
            return None
        holder = below
    return holder
