# SPDX-License-Identifier: Apache-2.0
"""The inference routes, and how a request's target is read (RFC 9112, section 3.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from firstkit.core.errors import InvalidRequest
from firstkit.core.request import Dialect


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRoute:
    """One path that is relayed to instances.

    `form`: the model is a field of a multipart form. `asks_usage`: `stream_options.include_usage` exists here.
    """

    path: str
    dialect: Dialect = Dialect.OPENAI
    form: bool = False
    asks_usage: bool = False


INFERENCE: dict[str, InferenceRoute] = {
    route.path: route
    for route in (
        InferenceRoute(path="/v1/chat/completions", asks_usage=True),
        InferenceRoute(path="/v1/completions", asks_usage=True),
        InferenceRoute(path="/v1/embeddings"),
        InferenceRoute(path="/v1/responses", dialect=Dialect.RESPONSES),
        InferenceRoute(path="/v1/messages", dialect=Dialect.ANTHROPIC),
        InferenceRoute(path="/v1/messages/count_tokens", dialect=Dialect.ANTHROPIC),
        InferenceRoute(path="/v1/rerank"),
        InferenceRoute(path="/v1/score"),
        InferenceRoute(path="/v1/audio/speech"),
        InferenceRoute(path="/v1/audio/transcriptions", form=True),
        InferenceRoute(path="/v1/audio/translations", form=True),
        InferenceRoute(path="/tokenize"),
        InferenceRoute(path="/detokenize"),
        InferenceRoute(path="/pooling"),
        InferenceRoute(path="/classify"),
    )
}


class Kind(Enum):
    """Who answers a request."""

    INFERENCE = "inference"
    API = "api"
    SERVER = "server"
    """`OPTIONS *`: the server itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request target, taken apart.

    `path` is without prefix `/clusters/{cluster}` for an inference route, complete otherwise; `query` keeps its "?".
    `authority` is set for the absolute form and must agree with Host.
    """

    kind: Kind
    path: str
    query: bytes = b""
    cluster: str | None = None
    route: InferenceRoute | None = None
    authority: bytes | None = None

    @property
    def origin_form(self) -> bytes:
        """The target as it is sent on to the api."""
        return self.path.encode() + self.query


PLAIN: dict[bytes, Target] = {
    path.encode(): Target(kind=Kind.INFERENCE, path=path, route=route) for path, route in INFERENCE.items()
}
"""Targets without prefix and query, found by their bytes."""

_PINNED = re.compile(r"/clusters/([a-z][a-z0-9-]{0,62})(/.+)")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]*)([/?].*)?", re.DOTALL)
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(rb"[^\x21-\x7e]|[\\#\"<>^`{|}]|%00|%0[adAD]|%5[cC]")
_DOTS = re.compile(rb"(?:^|/|%2[fF])(?:\.|%2[eE]){1,2}(?=/|%2[fF]|;|\?|$)")


def read_target(raw: bytes) -> Target:
    """Read a target; raises InvalidRequest for one that two programs might read differently."""
    if raw == b"*":
        return Target(kind=Kind.SERVER, path="*")
    authority: bytes | None = None
    if not raw.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(raw)
        if match is None:
            raise InvalidRequest("The request target must be a path that begins with a slash.", code="invalid_target")
        authority = match[1]
        raw = match[2] or b"/"
        if raw.startswith(b"?"):
            raw = b"/" + raw
    path_bytes, mark, query = raw.partition(b"?")
    if path_bytes.startswith(b"//") or _FORBIDDEN.search(path_bytes) or _ESCAPE.search(path_bytes):
        raise InvalidRequest("The path has characters that are not allowed in one.", code="invalid_target")
    if _DOTS.search(path_bytes):
        raise InvalidRequest("The path has dot segments; write it without them.", code="invalid_target")
    if re.search(rb"[^\x21-\x7e]", query):
        raise InvalidRequest("The query has characters that are not allowed in one.", code="invalid_target")
    path = path_bytes.decode("ascii")
    query = mark + query
    if (route := INFERENCE.get(path)) is not None:
        return Target(kind=Kind.INFERENCE, path=path, query=query, route=route, authority=authority)
    pinned = _PINNED.fullmatch(path)
    if pinned and (route := INFERENCE.get(pinned[2])) is not None:
        return Target(
            kind=Kind.INFERENCE, path=pinned[2], query=query, cluster=pinned[1], route=route, authority=authority
        )
    return Target(kind=Kind.API, path=path, query=query, authority=authority)
