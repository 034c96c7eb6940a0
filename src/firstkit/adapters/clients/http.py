# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of the commands: JSON in and out, streams of lines and events, errors that say what to do next."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, cast

import httpx

from firstkit.adapters.clients.target import Target, listens
from firstkit.core.errors import (
    ConfigError,
    FirstError,
    Forbidden,
    InternalError,
    InvalidRequest,
    Limited,
    NotFound,
    SiteError,
    Unauthenticated,
    Unavailable,
)
from firstkit.core.findings import Finding

CONNECT_S = 10.0
ANSWER_S = 60.0
_KINDS: dict[int, type[FirstError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    429: Limited,
    503: Unavailable,
}


class Client:
    """One installation, as a command uses it; `with` closes it."""

    def __init__(self, target: Target, *, transport: httpx.BaseTransport | None = None) -> None:
        self.target = target
        if transport is None and target.socket is not None:
            if not listens(target.socket):
                raise SiteError(self._unreachable(""), code="no_answer")
            transport = httpx.HTTPTransport(uds=str(target.socket))
        headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
        self._http = httpx.Client(
            base_url=target.base_url,
            headers={"user-agent": "first", **headers},
            transport=transport,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=not target.loopback,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Get a JSON object."""
        return self.send("GET", path, params=params)

    def listing(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Get the `data` of a listing."""
        return cast("list[dict[str, Any]]", self.get(path, **params).get("data", []))

    def send(self, method: str, path: str, *, timeout_s: float | None = None, **request: Any) -> dict[str, Any]:
        """Send a request and return the JSON object of its answer; raises what the answer or its absence means."""
        if timeout_s is not None:
            request["timeout"] = httpx.Timeout(timeout_s, connect=CONNECT_S)
        with self._mapped():
            answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise error_of(answer.status_code, answer.headers, answer.content, self.target)
        return _object(answer.content, self.target)

    @contextmanager
    def stream(
        self, method: str, path: str, *, idle_s: float | None = None, **request: Any
    ) -> Generator[httpx.Response]:
        """Send a request and give its answer once the head is there; raises when that is an error."""
        timeout = httpx.Timeout(idle_s, connect=CONNECT_S, write=ANSWER_S, pool=CONNECT_S)
        with self._mapped(), self._http.stream(method, path, timeout=timeout, **request) as answer:
            if answer.is_error:
                raise error_of(answer.status_code, answer.headers, answer.read(), self.target)
            yield answer

    @contextmanager
    def _mapped(self) -> Generator[None]:
        """Turn httpx's exceptions into ours."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise SiteError(f"{self._where()} does not answer within {CONNECT_S:.0f} s", code="no_answer") from error
        except httpx.ConnectError as error:
            raise SiteError(self._unreachable(str(error)), code="no_answer") from error
        except httpx.TimeoutException as error:
            raise SiteError(f"{self._where()} took too long to answer; try again", code="too_slow") from error
        except httpx.TransportError as error:
            raise SiteError(f"the connection to {self._where()} broke: {error or type(error).__name__}") from error

    def _where(self) -> str:
        return f"the admin socket {self.target.socket}" if self.target.socket else self.target.base_url

    def _unreachable(self, why: str) -> str:
        if self.target.socket is not None:
            return (
                f"nothing answers in {self.target.named}; start it with `first up` (or `make up`), "
                "or name another with --data or --url"
            )
        if "certificate" in why.lower():
            return f"the certificate of {self.target.base_url} cannot be trusted: {why}"
        hint = "start it with `first up` (or `make up`), or set FIRST_BASE_URL"
        if self.target.named not in {"the default", "FIRST_BASE_URL"}:
            hint = f"the address comes from {self.target.named}"
        return f"nothing answers at {self.target.base_url}; {hint}"


def _object(body: bytes, target: Target) -> dict[str, Any]:
    try:
        document: object = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SiteError(
            f"{target.base_url} answered something that is no JSON; is that a firstkit URL ({target.named})?",
            code="not_firstkit",
        )
    return cast("dict[str, Any]", document)


def error_of(status: int, headers: Mapping[str, str], body: bytes, target: Target) -> FirstError:
    """Turn an error answer into ours, keeping its sentence, code and findings."""
    try:
        document: Any = json.loads(body)
        fields = cast("dict[str, Any]", document["error"])
        message, code = str(fields["message"]), fields.get("code")
    except (ValueError, KeyError, TypeError):
        fields, code = dict[str, Any](), None
        message = f"{target.base_url} answered with status {status}"
        if status == 404:
            message += f"; is that a firstkit URL ({target.named})?"
    if status == 401:
        message += "" if target.key else "; set FIRST_API_KEY, or give --key-file"
        message += f" (the key came from {target.key_from})" if target.key_from else ""
    findings = fields.get("findings")
    if isinstance(findings, list):
        return ConfigError(message, findings=tuple(_finding(item) for item in cast("list[Any]", findings)), code=code)
    kind = _KINDS.get(status, InvalidRequest if status < 500 else SiteError if status != 500 else InternalError)
    retry = headers.get("retry-after", "")
    return kind(
        message,
        code=code if isinstance(code, str) else None,
        param=fields.get("param"),
        retry_after_s=float(retry) if retry.isdecimal() else None,
    )


def _finding(item: dict[str, Any]) -> Finding:
    return Finding(
        source=str(item.get("source", "")),
        problem=str(item.get("problem", "")),
        line=int(item.get("line", 0)),
        column=int(item.get("column", 0)),
        path=str(item.get("path", "")),
        expected=str(item.get("expected", "")),
        hint=str(item.get("hint", "")),
        warning=bool(item.get("warning", False)),
    )


def events(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """Read server-sent events as (event, data); a comment comes as ("", its text)."""
    event, data = "message", list[str]()
    for line in answer.iter_lines():
        if not line:
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif line.startswith(":"):
            yield "", line[1:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            event = line[6:].strip()
