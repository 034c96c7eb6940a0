# SPDX-License-Identifier: Apache-2.0
"""A real Slurm whose daemons hang and die, and whose jobs others meddle with: no wrong event, no double."""

import os
import signal
from collections.abc import Generator

import pytest
from installation import Installation, installation, processes, processes_naming
from paced import Stream, asks, paced
from slurm_site import ended, job_of, on_slurm, shown, slurm_config

from firstkit.testing.slurm import RealSlurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def running(fragile_slurm: RealSlurm, tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    deployments = {
        "steady": on_slurm(paced("steady")),
        "cold": on_slurm(paced("cold", min=0, idle="1h")),
        "colder": on_slurm(paced("colder", min=0, idle="1h")),
    }
    folder = tmp_path_factory.mktemp("slurm-chaos")
    with installation(folder, config=slurm_config(fragile_slurm, deployments)) as it:
        it.wait_hot("steady", within_s=90)
        yield it


def said(running: Installation, event: str) -> int:
    return running.log("controller").count(f" {event} ")


def submitted(slurm: RealSlurm) -> list[str]:
    """List the tags of the jobs that Slurm has ever completed or still has."""
    done = slurm.run("sacct", "-c", "-n", "-P", "-o", "JobName").stdout.split()
    return done + slurm.run("squeue", "-h", "-a", "-t", "PD,R,CG", "-o", "%j").stdout.split()


def answered_by(running: Installation, model: str) -> str:
    status, headers, body = running.request("POST", "/v1/chat/completions", asks("tokens=1", model=model))
    assert status == 200, body
    return headers["x-first-instance"]


@pytest.mark.parametrize("how", ["hangs", "is restarted"])
def test_a_controller_that_is_away_changes_nothing(running: Installation, fragile_slurm: RealSlurm, how: str) -> None:
    instance = answered_by(running, "steady")
    before = submitted(fragile_slurm)
    stream = Stream(running, asks("tokens=150 every=0.1", model="steady", stream=True))
    stream.wait_for(b"w0 ")
    troubles, well = said(running, "cluster_trouble"), said(running, "cluster_well")
    fragile_slurm.signal_controller(signal.SIGSTOP if how == "hangs" else signal.SIGTERM)
    try:
        running.until(lambda: said(running, "cluster_trouble") > troubles, within_s=90)
        assert answered_by(running, "steady") == instance
        assert [one["state"] for one in running.instances() if one["id"] == instance] == ["READY"]
    finally:
        if how == "hangs":
            fragile_slurm.signal_controller(signal.SIGCONT)
        else:
            fragile_slurm.start_controller()
    running.until(lambda: said(running, "cluster_well") > well, within_s=120)
    assert answered_by(running, "steady") == instance
    stream.assert_whole(150)
    assert set(submitted(fragile_slurm)) == set(before)


def test_a_controller_that_dies_before_it_has_saved_its_state_leaves_one_instance_of_each_model(
    running: Installation, fragile_slurm: RealSlurm
) -> None:
    """Slurm may take jobs up again as waiting ones: it kills what runs and starts them again, `--no-requeue` or not.

    The second start finds the claim and gives way; the controller replaces what was lost.
    """
    answered_by(running, "colder")
    fragile_slurm.signal_controller(signal.SIGKILL)
    fragile_slurm.start_controller()
    fragile_slurm.until_up()
    for model in ("colder", "steady"):
        answered_by(running, model)
        running.until(lambda model=model: len(engines_of(running, model)) == 1, within_s=60)
        assert running.ready_instances(model)
        answered_by(running, model)


def engines_of(running: Installation, model: str) -> list[int]:
    """Find the processes of a model's engines, apart from what started them."""
    wanted = ["--name", model]
    here = str(running.data)
    return [
        pid
        for pid, words in processes()
        if any(here in word for word in words) and words[-3:-1] == wanted and "launcher" not in words[0]
    ]


def test_a_submission_into_a_hung_controller_becomes_one_job(running: Installation, fragile_slurm: RealSlurm) -> None:
    unsure = said(running, "submission_unsure")
    fragile_slurm.signal_controller(signal.SIGSTOP)
    try:
        stream = Stream(running, asks("tokens=5", model="cold", stream=True))
        running.until(lambda: said(running, "submission_unsure") > unsure, within_s=120)
    finally:
        fragile_slurm.signal_controller(signal.SIGCONT)
    stream.end(within_s=120)
    stream.assert_whole(5)
    made = [one["id"] for one in running.instances(ended=True) if one["model"] == "cold"]
    assert made == [answered_by(running, "cold")], "what seemed lost was carried out, and nothing made beside it"
    (instance,) = made
    tag = shown(fragile_slurm, str(job_of(running, instance)["scheduler_id"]))["JobName"]
    assert submitted(fragile_slurm).count(tag) == 1


def test_a_job_of_ours_cannot_be_started_twice_by_a_requeue(running: Installation, fragile_slurm: RealSlurm) -> None:
    instance = answered_by(running, "steady")
    answer = fragile_slurm.run("scontrol", "requeue", str(job_of(running, instance)["scheduler_id"]))
    assert answer.returncode != 0
    assert "disabled" in answer.stderr
    assert answered_by(running, "steady") == instance


def test_a_job_whose_node_is_lost_is_replaced_and_what_still_runs_there_ends_itself(
    running: Installation, fragile_slurm: RealSlurm
) -> None:
    stream = Stream(running, asks("tokens=3", model="colder", stream=True))
    stream.end(within_s=90)
    instance = stream.headers["x-first-instance"]
    job = job_of(running, instance)
    node = shown(fragile_slurm, str(job["scheduler_id"]))["NodeList"]
    others = [one["id"] for one in running.instances() if one["id"] != instance]
    kept = [
        one for one in others if shown(fragile_slurm, str(job_of(running, one)["scheduler_id"]))["NodeList"] != node
    ]
    os.kill(fragile_slurm.node_pid(node), signal.SIGKILL)
    try:
        assert ended_within(running, instance, 120) == ("ENDED", "NODE_FAILURE")
        running.until(lambda: not processes_naming(str(job["run_dir"])), within_s=60)
        assert answered_by(running, "colder") != instance
    finally:
        fragile_slurm.start_node(node)
    assert {one["id"] for one in running.instances()} >= set(kept), "jobs on other nodes go on"
    fragile_slurm.until_up()
    running.until(lambda: running.ready_instances("steady"), within_s=60)


def ended_within(running: Installation, instance: str, within_s: float) -> tuple[str, str]:
    running.until(lambda: instance not in [one["id"] for one in running.instances()], within_s=within_s)
    return ended(running, instance)


def test_a_launcher_that_is_killed_with_no_last_word_is_told_by_slurm_and_replaced(
    running: Installation, fragile_slurm: RealSlurm
) -> None:
    instance = answered_by(running, "steady")
    os.kill(running.launcher_pid(job_of(running, instance)["id"]), signal.SIGKILL)
    state, reason = ended_within(running, instance, 90)
    assert (state, reason) in {("ENDED", "JOB_LOST"), ("ENDED", "ENGINE_EXIT")}, reason
    running.until(lambda: running.ready_instances("steady"), within_s=60)
    assert answered_by(running, "steady") != instance
