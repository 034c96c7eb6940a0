# SPDX-License-Identifier: Apache-2.0
"""What is kept of each request: a record for every attempt, tokens charged, the plane's own numbers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage
from firstkit.dataplane.outbox import Outbox
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

COUNTED_TOGETHER = 64
"""So many attempts are added to the metrics at a time."""

_NO_USAGE = Usage()
_NOWHERE = ("", "", "")
_COMPLETE, _REJECTED, _INTERACTIVE = Outcome.COMPLETE, Outcome.REJECTED, RequestClass.INTERACTIVE


class AttemptLine(msgspec.Struct, gc=False):
    """An `AttemptRecord` on its way to the spool: the same fields in the same order, made in a tenth of the time.

    The two encode to the same JSON.
    """

    request: str
    attempt: int
    ended: bool
    at: float
    subject: str
    project: str
    client_request_id: str
    path: str
    model: str
    asked: str
    deployment: str
    cluster: str
    instance: str
    stream: bool
    request_class: RequestClass
    outcome: Outcome
    status: int
    error_code: str
    decision: str
    usage: Usage
    waited_s: float
    first_byte_s: float | None
    first_token_s: float | None
    total_s: float
    gap_max_s: float | None
    gap_mean_s: float | None
    chunks: int
    request_bytes: int
    response_bytes: int

    def record(self) -> AttemptRecord:
        """Make the record."""
        return AttemptRecord(**{name: getattr(self, name) for name in self.__struct_fields__})


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
        self.requests: dict[tuple[str, Outcome], Count] = {}
        self.attempts: dict[tuple[str, Outcome], Count] = {}
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
"""One attempt that is over: exchange, attempt, its number, outcome, status, error code, whether the request has ended
with it, when; the connection that is free once the last bytes have been sent to it (None: not the end), and those."""


class Books:
    """Writes each attempt up once, all that end in one turn of the loop together.

    The last bytes of an answer leave after its record has been written, so what a client has seen whole is on disk.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        outbox: Outbox,
        admission: Admission,
        records: Callable[[Sequence[AttemptLine]], None],
    ) -> None:
        self._telemetry = telemetry
        self._outbox = outbox
        self._admission = admission
        self._records = records
        self._models: dict[str, _ModelCells] = {}
        self._refusals: dict[str, Count] = {}
        self._entries: list[_Entry] = []
        self._uncounted: list[AttemptLine] = []
        telemetry.before_reading(self.count)

    def settle(  # noqa: PLR0917 — called once for every request: keywords cost a tenth of it
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
        later = exchange.last_number + 1 if exchange.last_number else 0
        number = attempt.number if attempt is not None else later
        if not self._entries:
            self._outbox.add(self)
        self._entries.append(
            (exchange, attempt, number, outcome, status, error_code, True, time.monotonic(), conn, last)
        )

    def retried(self, exchange: InferenceExchange, attempt: Attempt, *, status: int, error_code: str) -> None:
        """Write up an attempt after which another is made."""
        if not self._entries:
            self._outbox.add(self)
        now = time.monotonic()
        self._entries.append(
            (exchange, attempt, attempt.number, Outcome.RETRIED, status, error_code, False, now, None, b"")
        )

    def flush(self) -> None:
        """Write up what has ended in this turn, then let the last bytes go (called by the outbox)."""
        entries, self._entries = self._entries, []
        written: list[AttemptLine] = []
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
            self._uncounted += written
            if len(self._uncounted) >= COUNTED_TOGETHER:
                self.count()
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

    def count(self) -> None:
        """Bring the metrics up to date; to be called before they are read."""
        lines, self._uncounted = self._uncounted, []
        for line in lines:
            if line.model:
                self._measure(line)

    def _write_up(self, entry: _Entry, written: list[AttemptLine]) -> None:
        exchange, attempt, number, outcome, status, error_code, ended, now, _, _ = entry
        principal = exchange.principal
        if outcome is _REJECTED:
            self.refused(error_code)
        if principal is None:
            return  # nobody whose request it was: counted, not kept
        relay = exchange.relay if ended and attempt is not None else None
        usage = relay.usage() if relay is not None else _NO_USAGE
        facts, read, start, kept = exchange.facts, exchange.read, exchange.started_at, exchange.kept
        prepared = exchange.head.prepared
        written.append(
            AttemptLine(
                exchange.id,
                number,
                ended,
                exchange.at,
                principal.subject,
                principal.project,
                prepared.client_id if prepared is not None else "",
                exchange.route.path,
                facts.model if facts is not None else "",
                read.model[:ASKED_MOST] if read is not None else "",
                *_where(attempt),
                read.stream if read is not None else False,
                facts.request_class if facts is not None else _INTERACTIVE,
                outcome,
                status,
                error_code,
                attempt.decision if attempt is not None else "",
                usage,
                (attempt.granted_at if attempt is not None else now) - start,
                *_times(attempt, relay, start, now),
                kept.size if kept is not None else 0,
                relay.body_bytes if relay is not None else 0,
            )
        )
        if relay is not None and attempt is not None and outcome is _COMPLETE:
            meter = relay.meter
            first_at = meter.first_token_at if meter is not None else None
            begun = attempt.granted_at
            attempt.lease.took(
                total_s=now - begun,
                first_s=None if first_at is None else first_at - begun,
                tokens=usage.output_tokens,
            )
        if usage is not _NO_USAGE:
            tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
            if tokens:
                self._admission.charge(principal.subject, tokens, now)

    def _measure(self, line: AttemptLine) -> None:
        model, outcome = line.model, line.outcome
        cells = self._models.get(model)
        if cells is None:
            cells = self._models[model] = _ModelCells(self._telemetry, model)
        if line.instance:
            key = (line.cluster, outcome)
            cell = cells.attempts.get(key)
            if cell is None:
                cell = self._telemetry.count(
                    "first_attempts_total", model=model, cluster=line.cluster, outcome=outcome.value
                )
                cells.attempts[key] = cell
            cell.value += 1
            cells.wait.observe(line.waited_s)
        if not line.ended:
            return
        key = (line.path, outcome)
        cell = cells.requests.get(key)
        if cell is None:
            cell = self._telemetry.count("first_requests_total", model=model, path=line.path, outcome=outcome.value)
            cells.requests[key] = cell
        cell.value += 1
        cells.received.value += line.request_bytes
        cells.sent.value += line.response_bytes
        cells.seconds.observe(line.total_s)
        if line.first_token_s is not None:
            cells.ttft.observe(line.first_token_s)
            cells.events.value += line.chunks
        if line.gap_mean_s is not None:
            cells.gap.observe(line.gap_mean_s)
        usage = line.usage
        if usage is not _NO_USAGE:
            cells.given.value += usage.input_tokens or 0
            cells.made.value += usage.output_tokens or 0
            cells.cached.value += usage.cached_tokens or 0


def _where(attempt: Attempt | None) -> tuple[str, str, str]:
    """Give deployment, cluster and instance."""
    if attempt is None:
        return _NOWHERE
    route = attempt.route
    return route.deployment, route.cluster, route.instance


def _times(
    attempt: Attempt | None, relay: Relay | None, start: float, now: float
) -> tuple[float | None, float | None, float, float | None, float | None, int]:
    """Give first byte, first token, total, greatest and mean gap, and the number of events."""
    first_byte_s = None
    if attempt is not None and attempt.first_byte_at is not None:
        first_byte_s = attempt.first_byte_at - start
    meter = relay.meter if relay is not None else None
    if meter is None:
        return first_byte_s, None, now - start, None, None, 0
    if meter.first_token_at is None:
        return first_byte_s, None, now - start, None, None, meter.chunks
    first_token_s = meter.first_token_at - start
    if not meter.gaps:
        return first_byte_s, first_token_s, now - start, None, None, meter.chunks
    return first_byte_s, first_token_s, now - start, meter.gap_max_s, meter.gap_sum_s / meter.gaps, meter.chunks
