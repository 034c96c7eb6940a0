# SPDX-License-Identifier: Apache-2.0
"""What records mean, in words: why a model is as it is, and where a request went."""

from __future__ import annotations

from collections.abc import Sequence

from firstkit.core.health.nodes import Exclusion
from firstkit.core.reasons import Reason
from firstkit.core.request import AttemptRecord, Outcome, UsageSource
from firstkit.core.topology import Heat, ModelStatus
from firstkit.core.units import format_duration

_WHY = {
    Reason.NO_DEMAND: "nobody is asking for it; the first request starts it",
    Reason.IDLE: "nobody has asked for it for a while; the next request starts it",
    Reason.SCALED_IN: "nobody has asked for it for a while; the next request starts it",
    Reason.DEMAND: "a request has asked for it and it is about to start",
    Reason.MIN_KEPT: "it is to be kept running and is about to start",
    Reason.SUBMITTING: "its job is being submitted",
    Reason.JOB_WAITS: "its job waits in the scheduler's queue",
    Reason.BOOTING: "its job runs and the engine is about to start",
    Reason.LOADING: "the engine is loading",
    Reason.BACKING_OFF: "the last start failed and the next one waits a little",
    Reason.CORDONED: "an operator takes no new work for it (`first deploy cordon … --undo` ends that)",
    Reason.CLUSTER_STOPPED: "an operator has stopped its cluster (`first resume CLUSTER` ends that)",
    Reason.HANDOVER: "it is about to take over from one whose time is nearly over",
    Reason.CANCELLED_BY_SITE: "its cluster cancels what is idle",
    Reason.MAINTENANCE: "its cluster is down for maintenance, and it starts again afterwards",
    Reason.CLUSTER_LIMIT: "its cluster holds as many jobs as it may",
    Reason.OVERRIDE: "an operator has drained it (`first deploy drain … --undo` ends that)",
    Reason.REMOVED: "no deployment serves it",
    Reason.UNREACHABLE: "its engine does not answer",
    Reason.OUT_OF_MEMORY: "the engine ran out of memory",
    Reason.NODE_UNFIT: "the node that it was given was not fit for it",
    Reason.WEIGHTS_MISSING: "its weights are not where the deployment says",
    Reason.ENGINE_EXIT: "the engine ended by itself",
    Reason.NEVER_READY: "the engine did not become ready in time",
    Reason.NEVER_REGISTERED: "its job ran but its launcher was never heard of",
    Reason.SETUP_FAILED: "the setup of its job failed",
    Reason.SUBMIT_REJECTED: "the scheduler refused its job",
    Reason.SITE_LIMIT: "the site lets no more jobs in for now",
    Reason.ENGINE_UNGUARDED: "the engine answered without its key, and was ended",
    Reason.DOOR_FAILED: "its door found no port to listen on",
}


def why(status: ModelStatus, *, age_s: float) -> str:
    """Say in one sentence why a model is as it is."""
    name = status.model
    detail = f" ({status.detail})" if status.detail else ""
    if status.heat is Heat.HOT:
        where = f" at {', '.join(status.clusters)}" if status.clusters else ""
        return f"{name} is hot{where} for {format_duration(status.for_s + age_s)}."
    reason = _WHY.get(status.reason, f"the reason is {status.reason}")
    if status.held:
        acted = (
            ""
            if status.reason in {Reason.CORDONED, Reason.CLUSTER_STOPPED, Reason.OVERRIDE}
            else ("; nothing is started until an operator acts (`first deploy release DEPLOYMENT`, or a new revision)")
        )
        return f"{name} is {status.heat} and held: {reason}{detail}{acted}."
    progress = f", {status.fraction:.0%}" if status.fraction is not None else ""
    text = f": {status.text}" if status.text else ""
    hot = ""
    if status.to_hot_s is not None:
        left = max(0.0, status.to_hot_s - age_s)
        usual = "; once asked for it takes about" if status.reason is Reason.NO_DEMAND else "; hot in about"
        hot = f"{usual} {format_duration(left)}"
    elif status.heat is not Heat.COLD:
        hot = "; how long that takes is not known yet"
    return f"{name} is {status.heat}: {reason}{progress}{text}{detail}{hot}."


def left_out(cluster: str, exclusion: Exclusion, *, now: float) -> str:
    """Say that new jobs are kept off a node, how long and why."""
    left = format_duration(max(0.0, exclusion.until - now))
    return (
        f"New jobs are kept off the node {exclusion.node} of {cluster} for another {left} ({exclusion.detail}); "
        f"`first deploy readmit {cluster}` ends that."
    )


_ENDS = {
    Outcome.COMPLETE: "answered whole",
    Outcome.ENGINE_ERROR: "answered with the engine's error",
    Outcome.CLIENT_GONE: "given up because the client left",
    Outcome.CUT: "cut: the answer broke off",
    Outcome.REFUSED: "not taken: the instance refused or closed the connection",
    Outcome.RETRIED: "failed before the first byte and was tried elsewhere",
    Outcome.TIMED_OUT: "given up: the engine did not answer in time",
    Outcome.REJECTED: "refused by the gateway",
}


def explain(attempts: Sequence[AttemptRecord]) -> list[str]:
    """Tell a request's way, a sentence for its arrival and one for each attempt."""
    first, last = attempts[0], attempts[-1]
    asked = f" (asked for as {first.asked})" if first.asked and first.asked != first.model else ""
    kind = "stream" if first.stream else "request"
    sentences = [f"A {kind} to {first.path} for {first.model or first.asked or 'no model'}{asked}."]
    for record in attempts:
        where = f"instance {record.instance} of {record.deployment} at {record.cluster}" if record.instance else ""
        waited = f" after waiting {format_duration(record.waited_s)}" if record.waited_s >= 0.05 else ""
        how = _ENDS.get(record.outcome, record.outcome)
        code = f" ({record.error_code})" if record.error_code else ""
        status = f" with status {record.status}" if record.status else ""
        if not where:
            sentences.append(f"No instance took it{waited}: {how}{status}{code}.")
            continue
        chosen = f", chosen as {record.decision}" if record.decision else ""
        sentences.append(f"Attempt {record.attempt} went to {where}{waited}{chosen}: {how}{status}{code}.")
    if last.first_byte_s is not None:
        token = "" if last.first_token_s is None else f", the first token after {format_duration(last.first_token_s)}"
        sentences.append(
            f"The first byte came after {format_duration(last.first_byte_s)}{token}, the end after "
            f"{format_duration(last.total_s)}."
        )
    usage = last.usage
    if usage.source is not UsageSource.UNKNOWN:
        by = "as the engine says" if usage.source is UsageSource.ENGINE else "as we counted"
        sentences.append(f"Tokens, {by}: {_count(usage.input_tokens)} in, {_count(usage.output_tokens)} out.")
    return sentences


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)
