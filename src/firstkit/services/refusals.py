# SPDX-License-Identifier: Apache-2.0
"""What a request is told that is not served: each a sentence that says why and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from firstkit.core.access import ASKED_SHOWN
from firstkit.core.errors import Forbidden, Limited, NotFound, Unavailable, UpstreamError
from firstkit.core.reasons import Reason
from firstkit.core.request import RequestFacts
from firstkit.core.topology import Heat
from firstkit.core.units import format_duration

_HEAT_WORDS = {
    Heat.HOT: "has no free place",
    Heat.WARM: "is loading",
    Heat.QUEUED: "waits in a cluster's queue",
    Heat.COLD: "is not running",
}


def shown(asked: str) -> str:
    """Show a name that a client made up, cut to a sane length."""
    return repr(asked if len(asked) <= ASKED_SHOWN else asked[:ASKED_SHOWN] + "…")


def because(reason: Reason, detail: str) -> str:
    """Put a reason into words: its detail if there is one, else its name."""
    return detail or reason.replace("_", " ").lower()


def unknown_model(asked: str, suggestions: Iterable[str]) -> NotFound:
    """Tell of a model that does not exist as far as this caller is concerned."""
    names = ", ".join(suggestions)
    hint = f"Did you mean {names}?" if names else "GET /v1/models lists those you may use."
    return NotFound(f"There is no model {shown(asked)} here. {hint}", code="model_not_found", param="model")


def not_allowed(asked: str) -> Forbidden:
    """Tell of a model that the caller may see but whose credential is confined to others."""
    return Forbidden(
        f"This credential may not use {shown(asked)}. GET /v1/models lists those it may.",
        code="model_not_allowed",
        param="model",
    )


def unknown_cluster(cluster: str, clusters: Iterable[str]) -> NotFound:
    """Tell of a cluster that does not exist."""
    names = ", ".join(clusters)
    hint = f" Clusters: {names}." if names else ""
    return NotFound(f"There is no cluster {shown(cluster)} here.{hint}", code="cluster_not_found")


def not_at_cluster(asked: str, cluster: str, clusters: Iterable[str]) -> NotFound:
    """Tell of a model that the pinned cluster does not have."""
    names = ", ".join(clusters)
    where = f"It is at {names}." if names else "Leave out /clusters/… to reach it."
    return NotFound(f"{shown(asked)} is not at cluster {cluster}. {where}", code="model_not_found", param="model")


def endpoint_not_supported(asked: str, path: str, paths: Iterable[str]) -> NotFound:
    """Tell of an endpoint at which no deployment serves the model."""
    names = ", ".join(sorted(paths))
    return NotFound(
        f"{shown(asked)} does not serve {path}. It serves {names}.", code="endpoint_not_supported", param="model"
    )


def no_deployment(asked: str) -> Unavailable:
    """Tell of a model that the catalog names and nothing serves."""
    return Unavailable(f"No deployment serves {shown(asked)} at present; the operators can add one.")


def not_ready() -> Unavailable:
    """Tell that no revision has been read yet, so that nobody can say which models there are."""
    return Unavailable(
        "The models are not known yet. Try again in a second; if it stays so, no configuration has been applied: start "
        "`first controller`, or run `first deploy apply FILE`.",
        code="not_ready",
        retry_after_s=1.0,
    )


def model_held(facts: RequestFacts, reason: Reason, detail: str) -> Unavailable:
    """Tell of a model whose starts failed so often that none is tried."""
    return Unavailable(
        f"{facts.asked} does not start: {because(reason, detail)}. It is held until an operator releases it; "
        f"`first why {facts.asked}` tells more."
    )


def starting(facts: RequestFacts, heat: Heat, why: str, *, to_hot_s: float | None, waited_s: float) -> Unavailable:
    """Tell of a model that is not hot to a request that cannot wait (any longer)."""
    expected = (
        "when it will be ready is not known" if to_hot_s is None else f"ready in about {format_duration(to_hot_s)}"
    )
    waited = f" after {format_duration(waited_s)} of waiting" if waited_s >= 1.0 else ""
    return Unavailable(
        f"{facts.asked} {_HEAT_WORDS[heat]}{waited} ({why}); {expected}. It is being asked for: run "
        f"`first wait {facts.asked}` and send the request again.",
        code="model_starting",
        retry_after_s=None if to_hot_s is None else max(1.0, to_hot_s),
    )


def no_place(facts: RequestFacts, *, retry_s: float, waited_s: float) -> Limited:
    """Tell that all instances are busy to a request that cannot wait (any longer)."""
    waited = f" within {format_duration(waited_s)}" if waited_s >= 1.0 else ""
    return Limited(
        f"No instance of {facts.asked} had a free place{waited}. Try again in {retry_s:.0f} s.",
        code="queue_full",
        retry_after_s=retry_s,
    )


def nowhere_left(facts: RequestFacts, attempt: int) -> UpstreamError:
    """Tell that no instance is left to try."""
    times = "once" if attempt == 2 else f"{attempt - 1} times"
    return UpstreamError(f"{facts.asked} failed the request ({times} tried), and no other instance can take it.")
