# SPDX-License-Identifier: Apache-2.0
"""What is kept of each request: a record for every attempt, tokens charged, the plane's own numbers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from firstkit.core.principal import Principal
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage
from firstkit.ports.telemetry import Count, Spread, Telemetry
from firstkit.services.admission import Admission

if TYPE_CHECKING:
    from firstkit.dataplane.attempt import Attempt
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.exchange import InferenceExchange
    from firstkit.dataplane.relay import Relay

log = logging.getLogger(__name__)

ASKED_MOST = 200
"""How much of the name a client asked for is kept."""

_NO_USAGE = Usage()


class _ModelCells:
    """The cells of one model, so that ending a request needs one look-up."""

    __slots__ = (
        "attempts",
        "cached",
        "events",
        "gap",
        "given",
        "made",
        "received",
        "requests",
        "seconds",
        "sent",
        "ttft",
        "wait",
    )

    def __init__(self, telemetry: Telemetry, model: str) -> None:
        self.requests: dict[tuple[str, str], Count] = {}
        self.attempts: dict[tuple[str, str], Count] = {}
        self.given = telemetry.count("first_tokens_total", model=model, kind="input")
        self.made = telemetry.count("first_tokens_total", model=model, kind="output")
        self.cached = telemetry.count("first_tokens_total", model=model, kind="cached")
        self.events = telemetry.count("first_streamed_events_total", model=model)
        self.received = telemetry.count("first_request_bytes_total", model=model)
        self.sent = telemetry.count("first_response_bytes_total", model=model)
        self.seconds: Spread = telemetry.spread("first_request_seconds", model=model)
        self.wait: Spread = telemetry.spread("first_wait_seconds", model=model)
        self.ttft: Spread = telemetry.spread("first_time_to_first_token_seconds", model=model)
        self.gap: Spread = telemetry.spread("first_token_gap_seconds", model=model)


_Entry = tuple["InferenceExchange", "Attempt | None", int, Outcome, int, str, bool, float, "Connection | None", bytes]
"""One attempt that is over: exchange, attempt, its number, outcome, status, error code, whether the request has ended with
it, when; the connection that is free once the last bytes have been sent to it (None for what is not the end), and those."""


class Books:
    """Writes each attempt up once, all that end in one turn of the loop together.

    The last bytes of an answer leave after its record has been written, so what a client has seen whole is on disk.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        records: Callable[[Sequence[AttemptRecord]], None],
    ) -> None:
        self._telemetry = telemetry
        self._loop = loop
        self._admission = admission
        self._records = records
        self._models: dict[str, _ModelCells] = {}
        self._refusals: dict[str, Count] = {}
        self._entries: list[_Entry] = []

    def settle(
        self,
        exchange: InferenceExchange,
        attempt: Attempt | None,
        outcome: Outcome,
        status: int,
        error_code: str,
        conn: Connection | None,
        last: bytes,
    ) -> None:
        """Write up how a request ended, then send the last bytes of its answer and free its connection.

        `attempt` None with earlier ones: it came to no further one.
        """
        if attempt is not None:
            number = attempt.number
        else:
            number = exchange.last_number + 1 if exchange.last_number else 0
        if not self._entries:
            self._loop.call_soon(self.flush)
        self._entries.append(
            (exchange, attempt, number, outcome, status, error_code, True, time.monotonic(), conn, last)
        )

    def retried(self, exchange: InferenceExchange, attempt: Attempt, *, status: int, error_code: str) -> None:
        """Write up an attempt after which another is made."""
        if not self._entries:
            self._loop.call_soon(self.flush)
        now = time.monotonic()
        self._entries.append(
            (exchange, attempt, attempt.number, Outcome.RETRIED, status, error_code, False, now, None, b"")
        )

    def flush(self) -> None:
        """Write up what has ended since the last time (called by the loop)."""
        entries, self._entries = self._entries, []
        written: list[AttemptRecord] = []
        for entry in entries:
            try:
                self._write_up(entry, written)
            except Exception:
                log.exception("an attempt could not be written up")
        if written:
            try:
                self._records(written)
            except OSError:
                log.exception("attempts could not be recorded")
        for *_, conn, last in entries:
            if conn is not None:
                if last:
                    conn.write(last)
                conn.finished()

    def refused(self, code: str) -> None:
        """Count an error of the gateway's own."""
        cell = self._refusals.get(code)
        if cell is None:
            cell = self._refusals[code] = self._telemetry.count("first_refusals_total", code=code)
        cell.value += 1

    def api(self, status: int) -> None:
        """Count an answer of the api."""
        self._telemetry.count("first_api_requests_total", status=f"{status // 100}xx").value += 1

    def _write_up(self, entry: _Entry, written: list[AttemptRecord]) -> None:
        exchange, attempt, _, outcome, _, error_code, ended, now, _, _ = entry
        principal = exchange.principal
        if outcome is Outcome.REJECTED:
            self.refused(error_code)
        if principal is None:
            return  # nobody whose request it was: counted, not kept
        relay = exchange.relay if ended and attempt is not None else None
        usage = relay.usage() if relay is not None else _NO_USAGE
        record = _record(entry, principal, relay, usage)
        written.append(record)
        if usage is not _NO_USAGE:
            tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
            if tokens:
                self._admission.charge(principal.subject, tokens, now)
        if exchange.facts is not None:
            self._measure(record, usage)

    def _measure(self, record: AttemptRecord, usage: Usage) -> None:
        cells = self._models.get(record.model)
        if cells is None:
            cells = self._models[record.model] = _ModelCells(self._telemetry, record.model)
        outcome = record.outcome.value
        if record.instance:
            key = (record.cluster, outcome)
            cell = cells.attempts.get(key)
            if cell is None:
                cell = self._telemetry.count(
                    "first_attempts_total", model=record.model, cluster=record.cluster, outcome=outcome
                )
                cells.attempts[key] = cell
            cell.value += 1
            cells.wait.observe(record.waited_s)
        if not record.ended:
            return
        key = (record.path, outcome)
        cell = cells.requests.get(key)
        if cell is None:
            cell = self._telemetry.count("first_requests_total", model=record.model, path=record.path, outcome=outcome)
            cells.requests[key] = cell
        cell.value += 1
        cells.received.value += record.request_bytes
        cells.sent.value += record.response_bytes
        cells.seconds.observe(record.total_s)
        if record.first_token_s is not None:
            cells.ttft.observe(record.first_token_s)
            cells.events.value += record.chunks
        if record.gap_mean_s is not None:
            cells.gap.observe(record.gap_mean_s)
        if usage is not _NO_USAGE:
            cells.given.value += usage.input_tokens or 0
            cells.made.value += usage.output_tokens or 0
            cells.cached.value += usage.cached_tokens or 0


def _record(entry: _Entry, principal: Principal, relay: Relay | None, usage: Usage) -> AttemptRecord:
    exchange, attempt, number, outcome, status, error_code, ended, now, _, _ = entry
    facts, read, start, kept = exchange.facts, exchange.read, exchange.started_at, exchange.kept
    prepared = exchange.head.prepared
    meter = relay.meter if relay is not None else None
    if attempt is not None:
        route, decision, waited_s, first_byte_at = (
            attempt.route,
            attempt.decision,
            attempt.granted_at - start,
            attempt.first_byte_at,
        )
    else:
        route, decision, waited_s, first_byte_at = None, "", now - start, None
    first_token_s = gap_max_s = gap_mean_s = None
    if meter is not None and meter.first_token_at is not None:
        first_token_s = meter.first_token_at - start
        if meter.gaps:
            gap_max_s, gap_mean_s = meter.gap_max_s, meter.gap_sum_s / meter.gaps
    return AttemptRecord(
        request=exchange.id,
        attempt=number,
        ended=ended,
        at=exchange.at,
        subject=principal.subject,
        project=principal.project,
        client_request_id=prepared.client_id if prepared is not None else "",
        path=exchange.route.path,
        model=facts.model if facts is not None else "",
        asked=read.model[:ASKED_MOST] if read is not None else "",
        deployment=route.deployment if route is not None else "",
        cluster=route.cluster if route is not None else "",
        instance=route.instance if route is not None else "",
        stream=read.stream if read is not None else False,
        request_class=facts.request_class if facts is not None else RequestClass.INTERACTIVE,
        outcome=outcome,
        status=status,
        error_code=error_code,
        decision=decision,
        usage=usage,
        waited_s=waited_s,
        first_byte_s=first_byte_at - start if first_byte_at is not None else None,
        first_token_s=first_token_s,
        total_s=now - start,
        gap_max_s=gap_max_s,
        gap_mean_s=gap_mean_s,
        chunks=meter.chunks if meter is not None else 0,
        request_bytes=kept.size if kept is not None else 0,
        response_bytes=relay.body_bytes if relay is not None else 0,
    )
