# SPDX-License-Identifier: Apache-2.0
"""From bytes to a tree: UTF-8, YAML 1.2, bounded in size, depth and aliases; what is wrong becomes findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Protocol, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from firstkit.config.document import ListNode, MapNode, Node, Place, ScalarNode, format_path, resolve_plain
from firstkit.core.findings import Finding

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000
_TAG = "tag:yaml.org,2002:"


class _Mark(Protocol):
    line: int
    column: int


class _Broken(Exception):
    """Reading cannot go on after this finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass(slots=True)
class _Frame:
    """A list or mapping being read; `weight` counts the nodes below it with every alias written out."""

    node: ListNode | MapNode
    anchor: str | None
    weight: int = 1
    key: ScalarNode | None = None
    skip: bool = False
    merges: list[tuple[Place, Node]] = field(default_factory=list[tuple[Place, Node]])


def read_bytes(path: FilePath) -> bytes | Finding:
    """Read a configuration file whole."""
    name = str(path)
    try:
        if path.exists() and not path.is_file():
            return Finding(source=name, problem="this is no file", expected="a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Finding(source=name, problem="there is no such file", expected="a YAML file")
    except OSError as error:
        return Finding(source=name, problem=f"cannot be read: {error.strerror or error}")
    if len(data) > MAX_BYTES:
        return Finding(source=name, problem="the file is too long", expected=f"at most {MAX_BYTES // 1000} kB")
    return data


def decode(data: bytes, *, source: str) -> str | Finding:
    """Decode UTF-8, leaving out a byte order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Finding(source=source, line=1, column=1, problem="the file is UTF-16", expected="UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8"
        return Finding(source=source, line=line, column=column, problem=problem, expected="a file saved as UTF-8")


def read_document(text: str, *, source: str) -> tuple[MapNode | None, list[Finding]]:
    """Parse one YAML document whose top is a mapping; without one the findings say why."""
    reader = _Reader(source)
    try:
        root = reader.read(text)
    except _Broken as broken:
        return None, _tabs(text, source) or [*reader.findings, broken.finding]
    if root is None or (isinstance(root, ScalarNode) and root.value is None):
        return MapNode(place=Place(line=1, column=1)), reader.findings
    if not isinstance(root, MapNode):
        reader.report(root.place, "", "the file is no mapping", "keys with values, such as `gateway:`, at the top")
        return None, reader.findings
    return root, reader.findings


def _tabs(text: str, source: str) -> list[Finding]:
    """List the lines that are indented with tabs: YAML takes none, and its parser stops at the first."""
    found: list[Finding] = []
    for number, line in enumerate(text.splitlines(), 1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent and line.strip():
            column = indent.index("\t") + 1
            problem, expected = "a tab in the indentation", "spaces: YAML indents with nothing else"
            found.append(Finding(source=source, line=number, column=column, problem=problem, expected=expected))
    return found


class _Reader:
    """Builds the tree from the parser's events, iteratively, so that no nesting can exhaust the stack."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.findings: list[Finding] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._root: Node | None = None
        self._documents = 0

    def report(self, place: Place, path: str, problem: str, expected: str = "", hint: str = "") -> None:
        self.findings.append(
            Finding(
                source=self.source,
                line=place.line,
                column=place.column,
                path=path,
                problem=problem,
                expected=expected,
                hint=hint,
            ),
        )

    def read(self, text: str) -> Node | None:
        events = {
            "ScalarEvent": self._scalar,
            "AliasEvent": self._alias,
            "SequenceStartEvent": self._start,
            "MappingStartEvent": self._start,
            "SequenceEndEvent": self._end,
            "MappingEndEvent": self._end,
            "DocumentStartEvent": self._document,
        }
        for event in self._events(text):
            act: Callable[[Any], None] | None = events.get(type(event).__name__)
            if act is not None:
                act(event)
        return self._root

    def _events(self, text: str) -> Iterator[Any]:
        parser = YAML(typ="rt", pure=True)
        try:
            yield from cast("Iterator[Any]", parser.parse(text))  # pyright: ignore[reportUnknownMemberType]
        except ReaderError as error:
            raise self._unreadable(text, error) from None
        except MarkedYAMLError as error:
            raise self._malformed(error) from None
        except (YAMLError, ValueError, IndexError, AttributeError, TypeError, AssertionError) as error:
            # The parser is somebody else's: whatever it trips over is a mistake in the text, not a crash of ours.
            place = Place(line=1, column=1)
            raise self._broken(place, f"this is no YAML: {error}", "YAML 1.2") from None

    def _unreadable(self, text: str, error: Any) -> _Broken:
        before = text[: error.position]
        place = Place(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
        code = error.character if isinstance(error.character, int) else ord(error.character[0])
        return self._broken(place, f"the character U+{code:04X} is not allowed in YAML", "text without it")

    def _malformed(self, error: Any) -> _Broken:
        opened = str(error.context).endswith(("a flow sequence", "a flow mapping", "a quoted scalar"))
        mark: _Mark | None = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
        place = Place(line=mark.line + 1, column=mark.column + 1) if mark else Place(line=1, column=1)
        return self._broken(place, *_explain_syntax(str(error.problem or error.context)))

    def _broken(self, place: Place, problem: str, expected: str) -> _Broken:
        return _Broken(
            Finding(source=self.source, line=place.line, column=place.column, problem=problem, expected=expected),
        )

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._broken(
                _place(event), "a second document begins here", "one document in the file, without `---`"
            )
        if event.version and tuple(event.version) != (1, 2):
            problem = f"the file says that it is YAML {'.'.join(map(str, event.version))}"
            raise self._broken(_place(event), problem, "YAML 1.2, without that line")

    def _scalar(self, event: Any) -> None:
        place, text = _place(event), str(event.value)
        plain = event.style is None
        tag = str(event.tag or "")
        if tag in {"", "!"}:
            value = resolve_plain(text) if plain and not tag else text
        elif tag == f"{_TAG}str":
            value = text
        else:
            short = tag.replace(_TAG, "!!")
            self.report(place, "", f"the tag {short} has no meaning here", "plain values without tags")
            value = text
        node = ScalarNode(place=place, value=value, text=text, plain=plain)
        self._remember(event.anchor, node, 1)
        self._add(node, 1)

    def _alias(self, event: Any) -> None:
        known = self._anchors.get(event.anchor)
        if known is None:
            inside = any(frame.anchor == event.anchor for frame in self._stack)
            why = "stands inside what it names" if inside else "names nothing above it"
            raise self._broken(
                _place(event), f"the alias *{event.anchor} {why}", f"a value marked &{event.anchor} before it"
            )
        self._add(*known)

    def _start(self, event: Any) -> None:
        place = _place(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._broken(place, "nested too deeply", f"at most {MAX_DEPTH} levels")
        if event.tag and str(event.tag) not in {f"{_TAG}map", f"{_TAG}seq", "!"}:
            self.report(place, "", f"the tag {event.tag} has no meaning here", "plain values without tags")
        node = ListNode(place=place) if type(event).__name__ == "SequenceStartEvent" else MapNode(place=place)
        self._stack.append(_Frame(node, event.anchor))

    def _end(self, _event: Any) -> None:
        frame = self._stack.pop()
        if isinstance(frame.node, MapNode):
            self._merge(frame.node, frame.merges)
        self._remember(frame.anchor, frame.node, frame.weight)
        self._add(frame.node, frame.weight)

    def _remember(self, anchor: str | None, node: Node, weight: int) -> None:
        if anchor:
            self._anchors[anchor] = (node, weight)

    def _add(self, node: Node, weight: int) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.weight += weight
        if frame.weight > MAX_NODES:
            raise self._broken(node.place, "too many values, aliases written out", f"at most {MAX_NODES}")
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.key is None and not frame.skip:
            self._take_key(frame, node)
        else:
            self._take_value(frame, frame.node, node)

    def _take_key(self, frame: _Frame, node: Node) -> None:
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            frame.key = node
            return
        shown = node.text if isinstance(node, ScalarNode) else "a list" if isinstance(node, ListNode) else "a mapping"
        hint = f'quote it: "{shown}"' if isinstance(node, ScalarNode) and shown else ""
        self.report(node.place, self._path(self._stack[:-1]), f"{shown or 'nothing'} as a key", "a word", hint)
        frame.skip = True

    def _take_value(self, frame: _Frame, mapping: MapNode, node: Node) -> None:
        key, frame.key, frame.skip = frame.key, None, False
        if key is None:
            return
        name = str(key.value)
        if name == "<<" and key.plain:
            frame.merges.append((key.place, node))
        elif name in mapping.entries:
            first = mapping.keys[name].line
            path = ".".join(part for part in (self._path(self._stack[:-1]), format_path((name,))) if part)
            self.report(key.place, path, f"`{name}` is given twice", f"once; the first is on line {first}")
        else:
            mapping.entries[name], mapping.keys[name] = node, key.place

    def _merge(self, mapping: MapNode, merges: list[tuple[Place, Node]]) -> None:
        """Fill in what `<<: *anchor` brings; keys written out in the mapping itself win."""
        for place, node in merges:
            for source in node.items if isinstance(node, ListNode) else [node]:
                if not isinstance(source, MapNode):
                    self.report(
                        place, self._path(self._stack), "`<<` merges a mapping", "an alias of one, such as `<<: *gpus`"
                    )
                    continue
                for key, value in source.entries.items():
                    mapping.entries.setdefault(key, value)
                    mapping.keys.setdefault(key, source.keys[key])

    def _path(self, frames: list[_Frame]) -> str:
        return format_path(tuple(str(frame.key.value) for frame in frames if frame.key is not None))


def _place(event: Any) -> Place:
    mark = cast("_Mark", event.start_mark)
    return Place(line=mark.line + 1, column=mark.column + 1)


_SYNTAX: tuple[tuple[str, str, str], ...] = (
    ("found character '\\t'", "a tab where YAML takes none", "spaces"),
    ("found character '@'", "a value may not begin with @", "quotes around it"),
    ("found character '`'", "a value may not begin with `", "quotes around it"),
    ("found character '%'", "a value may not begin with %", "quotes around it"),
    (
        "mapping values are not allowed here",
        "a second `: ` in one line, or a line indented further than its neighbours",
        "one key to a line, keys of one mapping in one column, values that hold `: ` quoted",
    ),
    ("could not find expected ':'", "a line without `: `", "`key: value`"),
    (
        "but found '<block mapping start>'",
        "this line is indented unlike its neighbours",
        "keys of one mapping in one column",
    ),
    (
        "but found '<block sequence start>'",
        "this line is indented unlike its neighbours",
        "items of one list in one column",
    ),
    ("expected ',' or '}'", "a `{` is not closed", "`}` after the last value, `,` between values"),
    ("expected ',' or ']'", "a `[` is not closed", "`]` after the last value, `,` between values"),
    ("unexpected end of stream", "a quote is not closed", "the closing quote"),
    (
        "found unknown escape character",
        'a backslash inside "…" that means nothing',
        "single quotes, or the backslash twice",
    ),
)


def _explain_syntax(problem: str) -> tuple[str, str]:
    """Say a parser's complaint in words that help."""
    for words, plain, expected in _SYNTAX:
        if words in problem:
            return plain, expected
    return f"this is no YAML: {problem}", ""
