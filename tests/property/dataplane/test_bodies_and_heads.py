# SPDX-License-Identifier: Apache-2.0
"""Bodies and heads made up by hypothesis: what is read of them is what a whole parser reads, or they are refused."""

import json
from typing import Any

import h11
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from firstkit.core.errors import FirstError
from firstkit.dataplane.form import read_form
from firstkit.dataplane.head import HeadReader, head_end, read_head
from firstkit.dataplane.peek import Peeker, find_places
from firstkit.dataplane.routes import read_target

PEEKER = Peeker(reserved={"priority", "cache_salt"}, choices_limit=8)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["model", "n"]), inner, max_size=4)
    ),
    max_leaves=12,
)
KEY = st.text(max_size=8) | st.sampled_from(["messages", "tools", "Model", "model ", "models", '"model"', "mo\\del"])
MODEL = st.text(min_size=1, max_size=12)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    fields = draw(st.dictionaries(KEY, JSON, max_size=6))
    for name in ("stream", "n", "best_of", "stream_options", "priority", "cache_salt"):
        fields.pop(name, None)
    items = list(fields.items())
    items.insert(draw(st.integers(0, len(items))), ("model", draw(MODEL)))
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), ("stream", draw(st.booleans())))
    indent = draw(st.sampled_from([None, 0, 2]))
    ascii_only = draw(st.booleans())
    text = json.dumps(dict(items), indent=indent, ensure_ascii=ascii_only)
    text = draw(st.sampled_from(["", " ", "\r\n\t"])) + text + draw(st.sampled_from(["", "\n"]))
    return text.encode("utf-8", "surrogatepass"), dict(items)


@given(bodies())
@settings(max_examples=80, deadline=None)
def test_the_model_is_read_and_found_where_a_whole_parser_finds_it(made: tuple[bytes, dict[str, Any]]) -> None:
    body, fields = made
    try:
        read = PEEKER.read(body)
    except FirstError:
        # half of a surrogate pair is no UTF-8; nothing else may be refused
        if any(0xD800 <= ord(character) < 0xE000 for character in json.dumps(fields, ensure_ascii=False)):
            return
        raise
    assert (read.model, read.stream) == (fields["model"], fields.get("stream", False))
    places = find_places(body)
    start, end = places.model
    spliced = body[:start] + b'"other"' + body[end:]
    assert json.loads(spliced) == {**fields, "model": "other"}
    wished = body[: places.opening] + b'"stream_options":{"include_usage":true},' + body[places.opening :]
    assert json.loads(wished)["stream_options"] == {"include_usage": True}


@given(bodies(), st.sampled_from(["model", "stream", "n"]), st.booleans())
def test_a_guarded_field_given_twice_is_refused(made: tuple[bytes, dict[str, Any]], name: str, escaped: bool) -> None:
    body, fields = made
    value = {"model": '"x"', "stream": "true", "n": "1"}[name]
    assume(name in fields or name == "n")
    spelt = "".join(f"\\u{ord(character):04x}" for character in name) if escaped else name
    twice = f'"{name}":{value},"{spelt}":{value},' if name not in fields else f'"{spelt}":{value},'
    at = body.index(b"{") + 1
    try:
        PEEKER.read(body[:at] + twice.encode() + body[at:])
    except FirstError:
        return
    raise AssertionError("it was taken")


@given(bodies(), st.sampled_from(["priority", "cache_salt"]), JSON)
def test_a_reserved_field_is_refused_at_the_top_and_nowhere_else(
    made: tuple[bytes, dict[str, Any]], name: str, value: Any
) -> None:
    _body, fields = made
    fields = {**fields, "inner": {name: value}}
    data = json.dumps(fields).encode()
    try:
        PEEKER.read(data)
        PEEKER.read(json.dumps({**fields, name: value}).encode())
    except FirstError as error:
        if error.code in {"reserved_field", "invalid_json"}:
            return
        raise
    raise AssertionError("it was taken")


@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from(["{", "}", '"model"', ":", '"m"', ",", "[", "]", "\\", '"', "1", " "])).map(
        lambda parts: "".join(parts).encode()
    )
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_do_anything_but_be_read_or_refused(body: bytes) -> None:
    try:
        read = PEEKER.read(body)
    except FirstError:
        return
    assert json.loads(body)["model"] == read.model


@given(st.text(alphabet="abc-'()+_,./:=?", min_size=1, max_size=20), st.text(max_size=20), st.binary(max_size=60))
def test_the_model_of_a_form_is_found(boundary: str, model: str, file: bytes) -> None:
    delimiter = b"--" + boundary.encode()
    assume(delimiter not in file and model and "\r\n" + delimiter.decode() not in model)
    assume(not any(0xD800 <= ord(character) < 0xE000 for character in model))
    body = (
        delimiter + b'\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\n' + file + b"\r\n"
        + delimiter + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n"
        + delimiter + b"--\r\n"
    )  # fmt: skip
    read = read_form(body, f'multipart/form-data; boundary="{boundary}"'.encode(), PEEKER)
    assert read.model == model
    assert read.places is not None
    start, end = read.places.model
    assert body[start:end] == model.encode()


TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=10
)
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip)


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=6), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_head_is_read_as_h11_reads_it_also_when_it_comes_again(
    headers: list[tuple[str, str]], first: int, second: int
) -> None:
    lines = [f"{name}: {value}" for name, value in headers]
    reader = HeadReader()
    for length in (first, second, first):
        raw = "\r\n".join(
            ["POST /v1/completions HTTP/1.1", "Host: x", *lines, f"Content-Length: {length}", "", ""]
        ).encode()
        assert head_end(raw, 1 << 20) == len(raw)
        try:
            head = reader.read(raw)
        except FirstError:
            return  # a header of ours with a value that it may not have
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(raw)
        event = theirs.next_event()
        assert isinstance(event, h11.Request)
        assert head.headers[:-1] == [(name, value.strip(b" \t")) for name, value in event.headers][:-1]
        assert head.length == length


@given(
    st.binary(max_size=120)
    | st.lists(
        st.sampled_from(
            [
                b"GET",
                b" ",
                b"/",
                b"HTTP/1.1",
                b"\r\n",
                b"\n",
                b"Host",
                b":",
                b"x",
                b"\0",
                b"\t",
                b"Content-Length",
                b"1",
            ]
        )
    ).map(b"".join)
)
@settings(max_examples=150, deadline=None)
def test_no_head_does_anything_but_be_read_or_refused(start: bytes) -> None:
    raw = start + b"\r\n\r\n"
    try:
        end = head_end(raw, 100)
        if end:
            read_head(raw[:end])
    except FirstError:
        return


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_a_target_is_read_without_dot_segments_or_refused(path: str) -> None:
    from urllib.parse import unquote

    try:
        target = read_target(b"/" + path.encode())
    except FirstError:
        return
    assert not {".", ".."} & set(unquote(target.path.partition("?")[0]).split("/"))
    assert (target.path + target.query.decode()).startswith("/")
