# SPDX-License-Identifier: Apache-2.0
"""A deployment on a simulated PBS site, whose jobs are real processes behind real doors, seen by a client."""

import json
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, installation, processes
from paced import Stream, asks, config, paced

from firstkit.testing.simulated_pbs.mom import members
from firstkit.testing.simulated_pbs.site import SimulatedPbs, simulated_pbs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def free_ports() -> str:
    """Find a range of ports that nobody listens on."""
    for first in range(20_000, 30_000, 10):
        with socket.socket() as one, socket.socket() as last:
            try:
                one.bind(("127.0.0.1", first))
                last.bind(("127.0.0.1", first + 9))
            except OSError:
                continue
            return f"{first}-{first + 9}"
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def site() -> Generator[SimulatedPbs]:
    with simulated_pbs(kill_delay_s=5.0) as running:
        yield running


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """Write the configuration: one deployment on the site, behind a door."""
    cluster = {
        "scheduler": {"kind": "pbs", "queue": "gpu", "account": "myproject", "python": sys.executable},
        "runner": {"kind": "local"},
        "link": {"kind": "direct", "ports": free_ports(), "address": "127.0.0.1"},
        "run_dir": "$DATA/clusters/here",
        "setup": "shopt -q login_shell\n",  # a line that fails anywhere but in a login shell
    }
    deployment = paced("demo", max=1) | {"resources": {"gpus": 2, "walltime": "10m"}}
    return config(deployments={"demo": deployment}, clusters={"here": cluster}, controller={"observe_idle": "1s"})


@pytest.fixture(scope="module")
def running(
    site: SimulatedPbs, written: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Installation]:
    folder = tmp_path_factory.mktemp("pbs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", site.path)
        patch.setenv("HOME", str(folder))
        with installation(folder, config=written) as one:
            one.wait_hot("demo")
            yield one


@pytest.fixture
def ending(site: SimulatedPbs, running: Installation, written: dict[str, Any]) -> Installation:
    """The installation for tests that end what the others share, each from where the first began."""
    running.reload(written)
    running.until(lambda: len(running.ready_instances("demo")) == len(jobs(site)) == 1, within_s=60)
    return running


def jobs(site: SimulatedPbs) -> list[str]:
    """List the jobs that live."""
    return list(json.loads(site.run("qstat", "-f", "-F", "json").stdout).get("Jobs", {}))


def job_of(site: SimulatedPbs, running: Installation) -> dict[str, Any]:
    """Show the one job that lives, as PBS knows it."""
    (one,) = running.until(lambda: len(found := running.jobs()) == 1 and running.ready_instances("demo") and found)
    return site.job(one["scheduler_id"])


def ended_job(site: SimulatedPbs, running: Installation, number: str) -> dict[str, Any]:
    """Wait until a job has ended, and show it."""
    return running.until(lambda: (found := site.job(number)).get("job_state") == "F" and found)


def test_a_deployment_becomes_a_job_whose_top_process_is_the_launcher(
    site: SimulatedPbs, running: Installation
) -> None:
    job = job_of(site, running)
    assert (job["queue"], job["Account_Name"], job["Rerunable"]) == ("gpu", "myproject", "False")
    assert (job["Resource_List"]["ngpus"], job["Resource_List"]["walltime"]) == (2, "00:10:00")
    assert job["Job_Name"].startswith("first-")
    words = Path(f"/proc/{job['session_id']}/cmdline").read_bytes().decode().split("\0")
    assert any("launcher-" in word for word in words), "nothing is above it that a signal could end"
    assert all(name.startswith("PBS_O_") for name in job["Variable_List"]), "nothing of our environment went along"


def test_it_answers_through_the_door_and_its_gpus_are_the_ones_of_the_job(running: Installation) -> None:
    stream = Stream(running, asks("tokens=20", model="demo", stream=True))
    stream.assert_whole(20)
    (instance,) = running.ready_instances("demo")
    variables = Path(f"/proc/{running.engine_pid(instance)}/environ").read_bytes().decode().split("\0")
    assert "CUDA_VISIBLE_DEVICES=GPU-pbs1-0,GPU-pbs1-1" in variables, "opaque ids stay as they are"


def test_the_time_left_is_the_schedulers(site: SimulatedPbs, running: Installation) -> None:
    job_of(site, running)
    (job,) = running.jobs()
    assert 0 < job["time_left_s"] <= 600


def test_a_server_that_is_down_ends_nothing(site: SimulatedPbs, running: Installation) -> None:
    before = (running.ready_instances("demo"), jobs(site))
    site.kill_server()
    try:
        running.until(lambda: "cannot connect to server pbs1" in running.log("controller"))
        Stream(running, asks("tokens=5", model="demo", stream=True)).assert_whole(5)
        assert running.ready_instances("demo") == before[0]
    finally:
        site.start_server()
    running.until(lambda: (running.ready_instances("demo"), jobs(site)) == before)


def test_a_server_that_hangs_ends_nothing(site: SimulatedPbs, running: Installation) -> None:
    before = (running.ready_instances("demo"), jobs(site))
    with site.hung():
        running.until(lambda: any("qstat" in words and str(site.folder) in words for _, words in processes()))
        Stream(running, asks("tokens=5", model="demo", stream=True)).assert_whole(5)
        assert running.ready_instances("demo") == before[0]
    running.until(lambda: (running.ready_instances("demo"), jobs(site)) == before)


def test_what_is_rendered_is_what_is_submitted(site: SimulatedPbs, running: Installation) -> None:
    done = running.first("deploy", "render", "demo", "--config", "first.yaml", "--data", str(running.data), "--json")
    assert done.returncode == 0, done.stderr
    rendered = json.loads(done.stdout)
    (shown,) = [one["run_dir"] for one in running.jobs()]
    submitted = f"qsub {job_of(site, running)['Submit_arguments']}"
    job_id, installation_id = Path(shown).name, submitted.split()[2].split("-")[1]
    text = (
        rendered["submitted with"]
        .replace("j-" + "0" * 12, job_id)
        .replace("first-" + "0" * 8, f"first-{installation_id}")
    )
    assert text == submitted
    script = next(value for name, value in rendered.items() if name.endswith("/start.sh"))
    script = script.replace("j-" + "0" * 12, job_id).replace("first-" + "0" * 8, f"first-{installation_id}")
    assert script == Path(shown, "start.sh").read_text()


def test_the_doctor_runs_a_job_and_finds_it_gone(running: Installation) -> None:
    done = running.first("doctor", "here", "--config", "first.yaml", "--json", within_s=120.0)
    checks = {one["check"]: one for one in json.loads(done.stdout)}
    assert {name for name, one in checks.items() if one["state"] == "fail"} == set(), done.stdout
    assert checks["here: test job"]["detail"].endswith("was cancelled and is gone")


def test_somebody_elses_qdel_ends_an_instance_as_cancelled_and_another_is_started(
    site: SimulatedPbs, ending: Installation
) -> None:
    (instance,) = ending.ready_instances("demo")
    job = job_of(site, ending)
    (number,) = jobs(site)
    assert site.run("qdel", number).returncode == 0
    ended = ending.until(
        lambda: [one for one in ending.instances(ended=True) if one["id"] == instance and one["state"] == "ENDED"]
    )
    assert ended[0]["reason"] == "CANCELLED"
    ending.until(lambda: ending.ready_instances("demo") not in ([], [instance]))
    assert ended_job(site, ending, number)["substate"] == 91
    assert job["Job_Name"] != job_of(site, ending)["Job_Name"]


def test_a_signal_reaches_the_launcher_which_ends_in_its_own_way(site: SimulatedPbs, ending: Installation) -> None:
    """The login shell of a script job would have died of it, and the job with it (exit status 271)."""
    (instance,) = ending.ready_instances("demo")
    (number,) = jobs(site)
    assert site.run("qsig", "-s", "SIGTERM", number).returncode == 0

    def over() -> list[dict[str, Any]]:
        return [one for one in ending.instances(ended=True) if one["id"] == instance and one["state"] == "ENDED"]

    (ended,) = ending.until(over)
    assert (ended["reason"], ended["detail"]) == ("CANCELLED", "SIGTERM from outside")
    assert ended_job(site, ending, number)["Exit_status"] == 0


def test_a_lost_nodes_instance_is_given_up_when_pbs_does_and_its_processes_end_by_themselves(
    site: SimulatedPbs, ending: Installation
) -> None:
    (instance,) = ending.ready_instances("demo")
    (number,) = jobs(site)
    session = site.job(number)["session_id"]
    site.lose_node()
    assert site.job(number)["job_state"] == "R", "as PBS has it for five minutes"
    Stream(ending, asks("tokens=5", model="demo", stream=True)).assert_whole(5)
    site.control(settings={"node_fail_requeue_s": 0.5})

    def given_up() -> list[dict[str, Any]]:
        return [one for one in ending.instances(ended=True) if one["id"] == instance and one["state"] == "ENDED"]

    (ended,) = ending.until(given_up, within_s=60)
    assert ended["reason"] == "NODE_FAILURE"
    ending.until(lambda: not members(session), within_s=60)
    site.start_node()
    site.control(settings={"node_fail_requeue_s": 310.0})
    ending.until(lambda: ending.ready_instances("demo") not in ([], [instance]), within_s=60)


def test_a_removed_deployment_is_drained_and_its_job_ends(
    site: SimulatedPbs, ending: Installation, written: dict[str, Any]
) -> None:
    (number,) = jobs(site)
    stream = Stream(ending, asks("tokens=40 every=0.05", model="demo", stream=True))
    stream.wait_for(b"w3 ")
    ending.reload(written | {"deployments": {}, "models": {}})
    stream.assert_whole(40)
    ending.until(lambda: jobs(site) == [] and ending.jobs() == [], within_s=60)
    ended_job(site, ending, number)
