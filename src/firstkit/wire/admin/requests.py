# SPDX-License-Identifier: Apache-2.0
"""What became of requests, and why a model is as it is."""

from __future__ import annotations

from datetime import datetime

from firstkit.core.request import AttemptRecord
from firstkit.wire.admin.fleet import EventView
from firstkit.wire.admin.shape import Shape, moment


class UsageView(Shape):
    """Finished requests for one model."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int


class AttemptView(Shape):
    """One try of a request on one instance. Never any content."""

    attempt: int
    ended: bool
    at: datetime | None
    path: str
    model: str
    asked: str
    deployment: str
    cluster: str
    instance: str
    outcome: str
    status: int
    error_code: str
    decision: str
    stream: bool
    usage_source: str
    input_tokens: int | None
    output_tokens: int | None
    waited_s: float
    first_byte_s: float | None
    first_token_s: float | None
    total_s: float
    gap_mean_s: float | None
    gap_max_s: float | None
    client_request_id: str

    @staticmethod
    def of(record: AttemptRecord) -> AttemptView:
        return AttemptView(
            attempt=record.attempt,
            ended=record.ended,
            at=moment(record.at),
            path=record.path,
            model=record.model,
            asked=record.asked,
            deployment=record.deployment,
            cluster=record.cluster,
            instance=record.instance,
            outcome=record.outcome,
            status=record.status,
            error_code=record.error_code,
            decision=record.decision,
            stream=record.stream,
            usage_source=record.usage.source,
            input_tokens=record.usage.input_tokens,
            output_tokens=record.usage.output_tokens,
            waited_s=record.waited_s,
            first_byte_s=record.first_byte_s,
            first_token_s=record.first_token_s,
            total_s=record.total_s,
            gap_mean_s=record.gap_mean_s,
            gap_max_s=record.gap_max_s,
            client_request_id=record.client_request_id,
        )


class Explained(Shape):
    """Where a request went and why, in sentences and attempt by attempt."""

    request: str
    sentences: list[str]
    attempts: list[AttemptView]


class Why(Shape):
    """One sentence why a model is as it is; for operators also what happened of late."""

    model: str
    state: str
    sentence: str
    events: list[EventView]
