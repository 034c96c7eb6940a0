# SPDX-License-Identifier: Apache-2.0
"""Whether an engine is up, serves the model it should, and lets nobody in without its key."""

from __future__ import annotations

import json
from typing import Callable, Dict, List, NamedTuple, Optional

from .documents import EngineSpec
from .exchange import Address, ExchangeFailed, exchange

OK = "ok"
NOT_YET = "not yet"
UNGUARDED = "unguarded"


class Verdict(NamedTuple):
    """The outcome of one round of questions and a sentence about it."""

    outcome: str
    detail: str


def credentials(spec: EngineSpec) -> Dict[str, str]:
    """Give the headers with which an engine that has a key of its own is asked."""
    return {} if spec.key is None else {"Authorization": f"Bearer {spec.key}"}


async def health(spec: EngineSpec, address: Address) -> Verdict:
    """Ask the health path once."""
    return await _ask(spec, address, spec.health.path, _nothing_wrong)


async def ready(spec: EngineSpec, address: Address) -> Verdict:
    """Ask everything that must hold before an instance is READY."""
    verdict = await health(spec, address)
    serves = spec.serves
    if verdict.outcome == OK and serves is not None:

        def listed(body: bytes) -> Optional[str]:
            names = _names(body)
            if serves.name in names:
                return None
            return f"{serves.path} lists {', '.join(names)[:200] or 'no model'}, not {serves.name}"

        verdict = await _ask(spec, address, serves.path, listed)
    if verdict.outcome != OK or spec.listen != "loopback":
        return verdict
    for path in spec.guarded:
        try:
            answer = await exchange(address, "GET", path, deadline_s=spec.health.timeout_s)
        except ExchangeFailed as failure:
            return Verdict(NOT_YET, f"{path}: {failure}")
        if 200 <= answer.status < 300:
            return Verdict(UNGUARDED, f"{path} answered {answer.status} to a request without the engine's key")
    return verdict


async def _ask(spec: EngineSpec, address: Address, path: str, wrong: Callable[[bytes], Optional[str]]) -> Verdict:
    try:
        answer = await exchange(address, "GET", path, headers=credentials(spec), deadline_s=spec.health.timeout_s)
    except ExchangeFailed as failure:
        return Verdict(NOT_YET, f"{path}: {failure}")
    if answer.status != 200:
        return Verdict(NOT_YET, f"{path} answers {answer.status}")
    complaint = wrong(answer.body)
    return Verdict(OK, "") if complaint is None else Verdict(NOT_YET, complaint)


def _nothing_wrong(_body: bytes) -> Optional[str]:
    return None


def _names(body: bytes) -> List[str]:
    """Read the ids of an OpenAI model listing; anything else lists nothing."""
    try:
        listing = json.loads(body)
        return [str(model["id"]) for model in listing["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
