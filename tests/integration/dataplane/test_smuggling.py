# SPDX-License-Identifier: Apache-2.0
"""Published ways to make two programs read one stream differently: each is refused, or read in the one right way."""

import json
from pathlib import Path

import pytest

from firstkit.testing.planes import MODEL, plane_world
from firstkit.testing.raw_engine import raw_engine

pytestmark = pytest.mark.anyio

POISON = b"GET /healthz HTTP/1.1\r\nhost: poisoned\r\n\r\n"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
KEY = b"Authorization: Bearer secret-key\r\n"
CHAT = json.dumps({"model": MODEL, "messages": []}).encode()
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)


def post(headers: bytes, body: bytes, *, line: bytes = LINE, host: bytes = b"Host: gateway\r\n") -> bytes:
    return line + host + KEY + headers + b"\r\n" + body


CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)

REFUSED = {
    # Content-Length against Transfer-Encoding (Linhart et al. 2005; Kettle 2019)
    "CL.TE": post(LENGTH + b"Transfer-Encoding: chunked\r\n", CHUNKS + POISON),
    "TE.CL": post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", CHUNKS + POISON),
    # obfuscated Transfer-Encoding (Kettle's TE.TE list)
    "TE xchunked": post(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "TE space before colon": post(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "TE twice": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", CHUNKS),
    "TE twice, second": post(b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "TE both chunked": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "TE vertical tab": post(b"Transfer-Encoding:\x0bchunked\r\n", CHUNKS),
    "TE newline inside": post(b"Transfer-Encoding:\n chunked\r\n", CHUNKS),
    "TE folded": post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    "TE header space": post(b" Transfer-Encoding: chunked\r\n", CHUNKS),
    "TE hidden in X": post(b"X: X\nTransfer-Encoding: chunked\r\n" + LENGTH, CHAT),
    "TE quoted": post(b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    "TE list": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "TE list, identity": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "TE identity": post(b"Transfer-Encoding: identity\r\n" + LENGTH, CHAT),
    "TE parameter": post(b"Transfer-Encoding: chunked;x=1\r\n", CHUNKS),
    "TE NUL": post(b"Transfer-Encoding: chunked\x00\r\n", CHUNKS),
    "TE in HTTP/1.0": post(b"Transfer-Encoding: chunked\r\n", CHUNKS, line=LINE.replace(b"1.1", b"1.0")),
    # Content-Length that is no plain number, or not one
    "CL plus": post(b"Content-Length: +%d\r\n" % len(CHAT), CHAT),
    "CL minus": post(b"Content-Length: -1\r\n", CHAT),
    "CL list": post(b"Content-Length: %d, %d\r\n" % (len(CHAT), len(CHAT)), CHAT),
    "CL twice, same": post(LENGTH + LENGTH, CHAT),
    "CL twice, other": post(LENGTH + b"Content-Length: 0\r\n", CHAT),
    "CL hex": post(b"Content-Length: 0x10\r\n", CHAT),
    "CL inner space": post(b"Content-Length: 1 2\r\n", CHAT),
    "CL underscore": post(b"Content-Length: 1_0\r\n", CHAT),
    "CL empty": post(b"Content-Length: \r\n", CHAT),
    "CL huge": post(b"Content-Length: 99999999999999999999999\r\n", CHAT),
    "CL space before colon": post(b"Content-Length : %d\r\n" % len(CHAT), CHAT),
    # line ends and characters
    "bare LF": LINE.replace(b"\r\n", b"\n") + b"Host: gateway\n" + LENGTH.replace(b"\r\n", b"\n") + b"\n" + CHAT,
    "bare LF in a header": post(b"X: a\nY: b\r\n" + LENGTH, CHAT),
    "bare CR in a header": post(b"X: a\rY: b\r\n" + LENGTH, CHAT),
    "NUL in a header": post(b"X: a\x00b\r\n" + LENGTH, CHAT),
    "NUL in a name": post(b"X\x00: a\r\n" + LENGTH, CHAT),
    "folded header": post(b"X: a\r\n b\r\n" + LENGTH, CHAT),
    "header without colon": post(b"X\r\n" + LENGTH, CHAT),
    "empty header name": post(b": a\r\n" + LENGTH, CHAT),
    # request line
    "lower case method": post(LENGTH, CHAT, line=LINE.replace(b"POST", b"post")),
    "two spaces": post(LENGTH, CHAT, line=LINE.replace(b"POST ", b"POST  ")),
    "tab": post(LENGTH, CHAT, line=LINE.replace(b"POST ", b"POST\t")),
    "space in target": post(LENGTH, CHAT, line=LINE.replace(b"/chat", b"/ chat")),
    "no version": post(LENGTH, CHAT, line=b"POST /v1/chat/completions\r\n"),
    "HTTP/2.0": post(LENGTH, CHAT, line=LINE.replace(b"1.1", b"2.0")),
    "HTTP/0.9": post(LENGTH, CHAT, line=LINE.replace(b"1.1", b"0.9")),
    "HTTP/1.2": post(LENGTH, CHAT, line=LINE.replace(b"1.1", b"1.2")),
    "PRI": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT gateway:443 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "fragment": b"GET /x#y HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "no leading slash": b"GET healthz HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "high byte": b"GET /\xff HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    # Host
    "no Host": post(LENGTH, CHAT, host=b""),
    "two Hosts": post(LENGTH, CHAT, host=b"Host: gateway\r\nHost: other\r\n"),
    "empty Host": post(LENGTH, CHAT, host=b"Host: \r\n"),
    "Host with path": post(LENGTH, CHAT, host=b"Host: gateway/x\r\n"),
    "Host with user": post(LENGTH, CHAT, host=b"Host: a@gateway\r\n"),
    "absolute target of another host": post(LENGTH, CHAT, line=LINE.replace(b" /", b" http://other/")),
    "absolute target with user": post(LENGTH, CHAT, line=LINE.replace(b" /", b" http://a@gateway/")),
    "absolute target of another scheme": post(LENGTH, CHAT, line=LINE.replace(b" /", b" ftp://gateway/")),
    # chunks (RFC 9112 7.1; the extension and line end cases of 2025)
    "chunk size plus": post(b"Transfer-Encoding: chunked\r\n", b"+" + CHUNKS),
    "chunk size 0x": post(b"Transfer-Encoding: chunked\r\n", b"0x" + CHUNKS),
    "chunk size underscore": post(b"Transfer-Encoding: chunked\r\n", b"0_" + CHUNKS),
    "chunk size space": post(b"Transfer-Encoding: chunked\r\n", b" " + CHUNKS),
    "chunk size overflow": post(b"Transfer-Encoding: chunked\r\n", b"10000000000000002f\r\n" + CHAT),
    "chunk size missing": post(b"Transfer-Encoding: chunked\r\n", b"\r\n" + CHUNKS),
    "chunk size LF": post(b"Transfer-Encoding: chunked\r\n", CHUNKS.replace(b"\r\n", b"\n", 1)),
    "chunk size CR": post(b"Transfer-Encoding: chunked\r\n", CHUNKS.replace(b"\r\n", b"\rx", 1)),
    "chunk extension LF": post(b"Transfer-Encoding: chunked\r\n", b"2;\nxx\r\n0\r\n\r\n"),
    "chunk extension CR": post(b"Transfer-Encoding: chunked\r\n", b"2;a\rb\r\nxx\r\n0\r\n\r\n"),
    "chunk extension without end": post(b"Transfer-Encoding: chunked\r\n", b"2;" + b"a" * 5000),
    "chunk longer than its size": post(b"Transfer-Encoding: chunked\r\n", b"2\r\nxxx\r\n0\r\n\r\n"),
    "chunk ends in LF": post(b"Transfer-Encoding: chunked\r\n", b"2\r\nxx\n0\r\n\r\n"),
    "trailer sets the length": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"),
    "trailer sets the coding": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"Transfer-Encoding: x\r\n\r\n"),
    "trailer authorizes": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"Authorization: x\r\n\r\n"),
    "trailer is no header": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"GET / HTTP/1.1\r\n\r\n"),
    "trailers without end": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"x: y\r\n" * 3000),
    # headers that decide something, twice
    "two keys": post(KEY + LENGTH, CHAT),
    "two content types": post(b"Content-Type: a/b\r\nContent-Type: c/d\r\n" + LENGTH, CHAT),
}

READ = {
    "TE in any case": post(b"tRANSFER-eNCODING: \t cHUNKED\r\n", CHUNKS),
    "leading zeros": post(b"Content-Length: 00%d\r\n" % len(CHAT), CHAT),
    "blanks around the length": post(b"Content-Length:\t %d \t\r\n" % len(CHAT), CHAT),
    "chunk with leading zeros": post(b"Transfer-Encoding: chunked\r\n", b"000" + CHUNKS),
    "chunk extension": post(b"Transfer-Encoding: chunked\r\n", CHUNKS.replace(b"\r\n", b' ;a="b"\r\n', 1)),
    "trailer": post(b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"X-Sum: 1\r\n\r\n"),
    "empty lines before": b"\r\n\r\n" + post(LENGTH, CHAT),
    "absolute target": post(LENGTH, CHAT, line=LINE.replace(b" /", b" http://GATEWAY/")),
    "IPv6 host": post(LENGTH, CHAT, host=b"Host: [::1]:8000\r\n"),
    "no value": post(b"X:\r\n" + LENGTH, CHAT),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_that_is_ambiguous_is_refused_and_nothing_after_it_is_read(tmp_path: Path, name: str) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(REFUSED[name] + POISON)
            got = await client.answer()
            assert got.status in {400, 431, 501, 505}, got
            assert got.headers["connection"] == "close"
            assert await client.closed()
        assert engine.visits == []


@pytest.mark.parametrize("name", READ)
async def test_an_unusual_request_is_read_in_the_one_right_way(tmp_path: Path, name: str) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(READ[name] + POISON)
            assert (await client.answer()).status == 200
            assert (await client.answer()).json() == {"status": "ok"}
        [visit] = engine.visits
        assert visit.body == CHAT
        assert "transfer-encoding" not in visit.headers


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%63hat/completions",
        "/v1/chat%2fcompletions",
        "/v1//chat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions;x=1",
        "/clusters/UPPER/v1/chat/completions",
        "/clusters/here/clusters/here/v1/chat/completions",
        "/clusters//v1/chat/completions",
        "/invocations",
        "/scale_elastic_ep",
        "/metrics",
        "/load",
        "/slots",
    ],
)
async def test_no_spelling_of_another_path_reaches_an_engine(tmp_path: Path, path: str) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(post(LENGTH, CHAT, line=f"POST {path} HTTP/1.1\r\n".encode()))
            got = await client.answer()
            assert got.status in {400, 404, 503}
        assert engine.visits == []


@pytest.mark.parametrize(
    "path",
    ["/api/../control/x", "/api/%2e%2e/x", "/api/.%2E/x", "/api/%2e", "/./x", "/..", "//host/x", "/x%00", "/x%zz",
     "/x\\y", "/x%5c..", "/a%2f..%2fb"],
)  # fmt: skip
async def test_a_path_that_could_be_resolved_in_two_ways_is_refused(tmp_path: Path, path: str) -> None:
    async with plane_world(tmp_path) as world, world.client() as client:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
        assert (await client.answer()).code == "invalid_target"
