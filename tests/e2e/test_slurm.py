# SPDX-License-Identifier: Apache-2.0
"""Models as jobs of a real Slurm: submitted, reached through their doors, scaled in, cancelled by others, refused."""

import json
import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from installation import Installation, installation
from paced import Stream, asks, paced
from slurm_site import ended, job_of, on_slurm, shown, slurm_config, stored_script

from firstkit.testing.slurm import RealSlurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def running(slurm: RealSlurm, tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    from firstkit.adapters.demo.weights import chat_gguf

    chat = {"kind": "llamacpp", "model": str(chat_gguf()), "context": 2048, "venv": sys.prefix}
    real = {"model": "SmolLM2-135M-Instruct", "cluster": "here", "engine": chat, "scaling": {"min": 1, "in_flight": 4}}
    deployments = {
        "chat": on_slurm(real, memory="2GB"),
        "steady": on_slurm(paced("steady"), gpus=2),
        "cold": on_slurm(paced("cold", min=0, idle="2s"), gpu_request="gpus-per-node"),
        "refused": on_slurm(paced("refused", min=0), partition="nosuch"),
        "endless": on_slurm(paced("endless", min=0), walltime="100h"),
    }
    with installation(tmp_path_factory.mktemp("slurm-e2e"), config=slurm_config(slurm, deployments)) as it:
        it.wait_hot("SmolLM2-135M-Instruct", "steady", within_s=120)
        yield it


def test_a_real_model_in_a_job_answers_through_the_gateway(running: Installation, slurm: RealSlurm) -> None:
    body = {"model": "SmolLM2-135M-Instruct", "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
    status, headers, answer = running.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    assert json.loads(answer)["choices"][0]["message"]["content"]
    assert headers["x-first-cluster"] == "here"
    number = str(job_of(running, headers["x-first-instance"])["scheduler_id"])
    job = shown(slurm, number)
    assert (job["JobState"], job["Partition"], job["Requeue"]) == ("RUNNING", "gpu", "0")
    assert re.fullmatch(r"first-[0-9a-z]{8}-j-[0-9a-z]{12}", job["JobName"]), "the tag alone is for all to see"


def test_what_slurm_says_of_the_gpus_reaches_the_engine_unread(running: Installation, slurm: RealSlurm) -> None:
    (instance,) = running.ready_instances("steady")
    environment = Path(f"/proc/{running.engine_pid(instance)}/environ").read_bytes().decode().split("\0")
    values = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    assert values["CUDA_VISIBLE_DEVICES"] == values["SLURM_JOB_GPUS"]
    assert len(values["CUDA_VISIBLE_DEVICES"].split(",")) == 2
    assert values["ROCR_VISIBLE_DEVICES"] == values["CUDA_VISIBLE_DEVICES"]
    assert "gres:gpu:2" in shown(slurm, str(job_of(running, instance)["scheduler_id"]))["TresPerNode"]


def test_what_is_rendered_is_what_is_submitted(running: Installation, slurm: RealSlurm, tmp_path: Path) -> None:
    (instance,) = running.ready_instances("steady")
    job = job_of(running, instance)
    rendered = running.first(
        "deploy", "render", "steady", "--config", "first.yaml", "--data", str(running.data), "--json"
    )
    assert rendered.returncode == 0, rendered.stderr
    (script,) = [text for name, text in json.loads(rendered.stdout).items() if name.endswith("start.sh")]
    tag = shown(slurm, str(job["scheduler_id"]))["JobName"]
    expected = script.replace("first-00000000-j-000000000000", tag).replace("j-000000000000", job["id"])
    assert stored_script(slurm, str(job["scheduler_id"]), tmp_path).splitlines() == expected.splitlines()
    assert "#SBATCH --gres=gpu:2\n" in expected
    assert "#SBATCH --time=0-00:30:00\n" in expected


def test_slurm_says_what_it_would_do_with_what_is_rendered(running: Installation, slurm: RealSlurm) -> None:
    before = set(slurm.run("squeue", "-h", "-t", "all", "-o", "%i").stdout.split())
    asked = ("--config", "first.yaml", "--data", str(running.data), "--test")
    taken = running.first("deploy", "render", "steady", *asked, "--json")
    assert taken.returncode == 0, taken.stderr
    answer = json.loads(taken.stdout)["the scheduler's answer"]
    assert re.fullmatch(
        r"accepted, and would start (at once|in .*) \(using \d+ processors on nodes c\d in partition gpu\)", answer
    )
    for name, words in (
        ("refused", "Invalid partition name specified"),
        ("endless", "Requested time limit is invalid"),
    ):
        refused = running.first("deploy", "render", name, *asked)
        assert refused.returncode == 1
        assert words in refused.stderr
    assert set(slurm.run("squeue", "-h", "-t", "all", "-o", "%i").stdout.split()) <= before, "nothing was submitted"


def test_a_cold_model_is_started_by_a_request_and_its_job_is_cancelled_once_idle(
    running: Installation, slurm: RealSlurm
) -> None:
    stream = Stream(running, asks("tokens=5 every=0.01", model="cold", stream=True))
    stream.assert_whole(5)
    instance = stream.headers["x-first-instance"]
    number = str(job_of(running, instance)["scheduler_id"])
    running.until(lambda: not running.ready_instances("cold"))
    running.until(lambda: shown(slurm, number)["JobState"] not in {"RUNNING", "COMPLETING"})
    assert ended(running, instance) == ("ENDED", "SCALED_IN")


def test_a_job_that_somebody_else_cancels_is_replaced_and_nothing_is_held(
    running: Installation, slurm: RealSlurm
) -> None:
    (instance,) = running.ready_instances("steady")
    job = job_of(running, instance)
    assert slurm.run("scancel", str(job["scheduler_id"])).returncode == 0
    running.until(lambda: running.ready_instances("steady") not in ([], [instance]))
    assert ended(running, instance) == ("ENDED", "CANCELLED")
    assert not running.models()["steady"].get("held")
    assert len(running.ready_instances("steady")) == 1


@pytest.mark.parametrize(
    ("model", "words"),
    [("refused", "Invalid partition name specified"), ("endless", "Requested time limit is invalid")],
)
def test_what_slurm_refuses_is_told_in_its_own_words_and_not_tried_for_ever(
    running: Installation, model: str, words: str
) -> None:
    status, _, body = running.request("POST", "/v1/chat/completions", asks("tokens=1", model=model))
    assert status == 503
    assert words in json.loads(body)["error"]["message"]
    ended = [one for one in running.instances(ended=True) if one["model"] == model]
    assert [one["reason"] for one in ended] == ["SUBMIT_REJECTED"] * 2


def test_a_held_job_waits_with_slurms_own_reason_and_serves_once_let_go(
    running: Installation, slurm: RealSlurm
) -> None:
    slurm.run("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    try:
        stream = Stream(running, asks("tokens=5", model="cold", stream=True))
        number = running.until(
            lambda: next((str(one["scheduler_id"]) for one in running.jobs() if one["state"] == "QUEUED"), None)
        )
        assert slurm.run("scontrol", "hold", number).returncode == 0
        running.until(lambda: any("JobHeld" in one["detail"] for one in running.jobs()))
    finally:
        slurm.run("scontrol", "update", "PartitionName=gpu", "State=UP")
    assert shown(slurm, number)["JobState"] == "PENDING"
    assert slurm.run("scontrol", "release", number).returncode == 0
    stream.assert_whole(5)
    assert str(job_of(running, stream.headers["x-first-instance"])["scheduler_id"]) == number
