# SPDX-License-Identifier: Apache-2.0
"""Records in words."""

import pytest

from firstkit.apps.api.sentences import why
from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat, ModelStatus


def said(heat: Heat, reason: Reason, *, age_s: float = 0.0, **fields: object) -> str:
    return why(ModelStatus(model="m", heat=heat, reason=reason, **fields), age_s=age_s)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (said(Heat.HOT, Reason.SERVING, for_s=60.0, clusters=("a",), age_s=60.0), "m is hot at a for 2 min."),
        (
            said(Heat.COLD, Reason.NO_DEMAND, to_hot_s=30.0),
            "m is cold: nobody is asking for it; the first request starts it; once asked for it takes about 30 s.",
        ),
        (
            said(Heat.WARM, Reason.LOADING, fraction=0.4, text="loading weights", to_hot_s=30.0, age_s=10.0),
            "m is warm: the engine is loading, 40%: loading weights; hot in about 20 s.",
        ),
        (
            said(Heat.QUEUED, Reason.JOB_WAITS, detail="Priority"),
            "m is queued: its job waits in the scheduler's queue (Priority); how long that takes is not known yet.",
        ),
    ],
)
def test_a_models_state_is_one_sentence(sentence: str, expected: str) -> None:
    assert sentence == expected


def test_a_held_model_says_who_must_act() -> None:
    assert "until an operator acts" in said(Heat.COLD, Reason.OUT_OF_MEMORY, held=True)
    assert "first resume" in said(Heat.COLD, Reason.CLUSTER_STOPPED, held=True)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("held", [True, False])
def test_every_reason_can_be_said(reason: Reason, held: bool) -> None:
    sentence = said(Heat.COLD, reason, held=held)
    assert sentence.startswith("m is cold")
    assert sentence.endswith(".")
