# SPDX-License-Identifier: Apache-2.0
"""Status and desired over HTTP: held answers, news at once, outages, and the fence."""

from typing import Any

import pytest


def talking_to(*servers: Any, **more: Any) -> dict[str, Any]:
    urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    return {"urls": urls, "token_file": "control.key", "hold_s": 25, "ca_file": None, "beat_s": 10} | more


def test_status_is_put_when_it_changes_and_desired_comes_back(node: Any, control_server: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server))
    control_server.until("READY")
    node.eventually(lambda: control_server.dropped >= 1, "a held answer is given up for the new status")
    asked = control_server.headers[-1]
    assert (asked["X-First-Desired-Version"], asked["Prefer"]) == ("0", "wait=25")
    control_server.desire(3, i_a={"want": "drain", "within_s": 100})
    draining = control_server.until("DRAINING")
    assert draining["instances"][0]["reason"] == "SCALED_IN"
    node.eventually(lambda: control_server.headers[-1]["X-First-Desired-Version"] == "3")
    control_server.desire(4, i_a={"want": "stop"})
    assert job.wait() == 0
    assert control_server.last()["state"] == "ENDED"
    assert control_server.last()["instances"][0]["exit"]["code"] == 0
    assert [status["seq"] for status in control_server.statuses] == sorted(s["seq"] for s in control_server.statuses)


def test_draining_is_told_before_the_engine_is_stopped(node: Any, control_server: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server))
    control_server.until("READY")
    assert job.end() == 0
    states = [(status["state"], status["instances"][0]["state"]) for status in control_server.statuses]
    assert states.index(("ENDING", "DRAINING")) < states.index(("ENDED", "ENDED"))
    ending = next(status for status in control_server.statuses if status["state"] == "ENDING")
    assert ending["instances"][0]["address"] is not None
    assert ending["instances"][0]["exit"] is None


def test_a_job_that_is_not_wanted_any_more_ends(node: Any, control_server: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server))
    control_server.until("READY")
    control_server.answer_with = 410
    assert job.wait() == 0
    assert job.exit()["reason"] == "SUPERSEDED"


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_other_refusals_are_an_outage(node: Any, control_server: Any, status: int) -> None:
    control_server.answer_with = status
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server))
    node.eventually(lambda: f"answers {status}" in job.log())
    control_server.until("READY")
    control_server.answer_with = None
    node.eventually(lambda: "answered again" in job.log())
    assert job.instance()["state"] == "READY"


def test_another_address_is_tried_and_files_work_beside_it(node: Any, control_server: Any) -> None:
    control = talking_to(control_server)
    control["urls"].insert(0, f"unix:{node.folder}/nobody-listens.sock")
    job = node.launch(
        node.engine("WellBehavedEngine"),
        control=control,
        env={"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"},
    )
    control_server.until("READY")
    control_server.desire(2, i_a={"want": "serve"})
    node.eventually(lambda: control_server.headers[-1]["X-First-Desired-Version"] == "2")
    job.desire(3, i_a={"want": "stop"})
    assert job.wait() == 0
    assert control_server.last()["state"] == "ENDED"


def test_an_outage_is_outlived_and_the_last_word_does_not_hang(node: Any, control_server: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server), fence_s=600)
    control_server.until("READY")
    control_server.close()
    node.eventually(lambda: "control: http" in job.log())
    assert job.instance()["state"] == "READY"
    assert job.end() == 0
    assert job.exit()["reason"] == "CANCELLED"


def test_a_server_that_never_holds_is_not_asked_without_end(node: Any, control_server: Any) -> None:
    control_server.hold = False
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server))
    control_server.until("READY")
    settled = len(control_server.statuses)
    node.eventually(lambda: job.status()["uptime_s"] and len(control_server.statuses) >= settled + 3)
    gaps = [
        later["uptime_s"] - earlier["uptime_s"]
        for earlier, later in zip(
            control_server.statuses[settled:], control_server.statuses[settled + 1 :], strict=False
        )
    ]
    assert min(gaps) > 0.4
