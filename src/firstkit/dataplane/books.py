# SPDX-License-Identifier: Apache-2.0
"""What is kept of each request: a record for every attempt, tokens charged, the plane's own numbers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage
from firstkit.ports.telemetry import Count, Spread, Telemetry
from firstkit.services.admission import Admission

if TYPE_CHECKING:
    from firstkit.dataplane.attempt import Attempt
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


class Books:
    """Writes each attempt up once."""

    def __init__(self, telemetry: Telemetry, *, admission: Admission, records: Callable[[AttemptRecord], None]) -> None:
        self._telemetry = telemetry
        self._admission = admission
        self._records = records
        self._models: dict[str, _ModelCells] = {}
        self._refusals: dict[str, Count] = {}

    def refused(self, code: str) -> None:
        """Count an error of the gateway's own."""
        cell = self._refusals.get(code)
        if cell is None:
            cell = self._refusals[code] = self._telemetry.count("first_refusals_total", code=code)
        cell.value += 1

    def api(self, status: int) -> None:
        """Count an answer of the api."""
        self._telemetry.count("first_api_requests_total", status=f"{status // 100}xx").value += 1

    def write(
        self,
        exchange: InferenceExchange,
        attempt: Attempt | None,
        outcome: Outcome,
        *,
        status: int,
        ended: bool,
        error_code: str,
    ) -> None:
        """Write up an attempt, or a request that had none; `attempt` None with earlier ones: it came to no further one."""
        intake = exchange.intake
        principal = intake.principal
        if outcome is Outcome.REJECTED:
            self.refused(error_code)
        if principal is None:
            return  # nobody whose request it was: counted, not kept
        now = time.monotonic()
        relay = exchange.relay if ended else None
        usage = relay.usage() if relay is not None and attempt is not None else _NO_USAGE
        entry = _entry(exchange, attempt, relay, usage, outcome, status, ended=ended, error_code=error_code, now=now)
        try:
            self._records(entry)
        except OSError:
            log.exception("an attempt could not be recorded")
        if ended and (usage.input_tokens or usage.output_tokens):
            tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
            self._admission.charge(principal.subject, tokens, now)
        if exchange.facts is not None:
            self._measure(entry, usage)

    def _measure(self, entry: AttemptRecord, usage: Usage) -> None:
        cells = self._models.get(entry.model)
        if cells is None:
            cells = self._models[entry.model] = _ModelCells(self._telemetry, entry.model)
        outcome = entry.outcome.value
        if entry.instance:
            key = (entry.cluster, outcome)
            cell = cells.attempts.get(key)
            if cell is None:
                cell = self._telemetry.count(
                    "first_attempts_total", model=entry.model, cluster=entry.cluster, outcome=outcome
                )
                cells.attempts[key] = cell
            cell.value += 1
        if not entry.ended:
            return
        key = (entry.path, outcome)
        cell = cells.requests.get(key)
        if cell is None:
            cell = self._telemetry.count("first_requests_total", model=entry.model, path=entry.path, outcome=outcome)
            cells.requests[key] = cell
        cell.value += 1
        cells.received.value += entry.request_bytes
        cells.sent.value += entry.response_bytes
        cells.seconds.observe(entry.total_s)
        if entry.instance:
            cells.wait.observe(entry.waited_s)
        if entry.first_token_s is not None:
            cells.ttft.observe(entry.first_token_s)
            cells.events.value += entry.chunks
        if entry.gap_mean_s is not None:
            cells.gap.observe(entry.gap_mean_s)
        if usage is not _NO_USAGE:
            cells.given.value += usage.input_tokens or 0
            cells.made.value += usage.output_tokens or 0
            cells.cached.value += usage.cached_tokens or 0


def _entry(
    exchange: InferenceExchange,
    attempt: Attempt | None,
    relay: Relay | None,
    usage: Usage,
    outcome: Outcome,
    status: int,
    *,
    ended: bool,
    error_code: str,
    now: float,
) -> AttemptRecord:
    intake, facts, start = exchange.intake, exchange.facts, exchange.started_at
    prepared = exchange.head.prepared
    principal, read = intake.principal, intake.read
    meter = relay.meter if relay is not None else None
    route = attempt.route if attempt is not None else None
    if attempt is not None:
        number = attempt.number
        waited_s = attempt.granted_at - start
    else:
        number = exchange.last_number + 1 if exchange.last_number else 0
        waited_s = now - start
    first_byte_at = attempt.first_byte_at if attempt is not None else None
    first_token_at = meter.first_token_at if meter is not None else None
    gaps = meter.gaps if meter is not None else 0
    return AttemptRecord(
        request=exchange.id,
        attempt=number,
        ended=ended,
        at=exchange.at,
        subject=principal.subject if principal is not None else "",
        project=principal.project if principal is not None else "",
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
        decision=attempt.decision if attempt is not None else "",
        usage=usage,
        waited_s=waited_s,
        first_byte_s=first_byte_at - start if first_byte_at is not None else None,
        first_token_s=first_token_at - start if first_token_at is not None else None,
        total_s=now - start,
        gap_max_s=meter.gap_max_s if meter is not None and gaps else None,
        gap_mean_s=meter.gap_sum_s / gaps if meter is not None and gaps else None,
        chunks=meter.chunks if meter is not None else 0,
        request_bytes=intake.body.size if intake.body is not None else 0,
        response_bytes=relay.body_bytes if relay is not None else 0,
    )
