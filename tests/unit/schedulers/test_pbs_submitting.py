# SPDX-License-Identifier: Apache-2.0
"""What the PBS dialect asks of qsub, and what it makes of the answer."""

from itertools import pairwise
from typing import Any

import pytest

from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.adapters.schedulers.pbs_times import read_duration, write_duration
from firstkit.core.catalog import Cluster, Resources, SchedulerSpec
from firstkit.core.reasons import HEALING, Reason
from firstkit.ports.runner import Done, Refused, Unknown
from firstkit.ports.scheduler import Accepted, Rejected, Submission, Unsure
from firstkit.testing.records import make_cluster

TAG = "first-abcdefgh-j-000000000001"


def dialect(**options: Any) -> PbsScheduler:
    made = make_cluster(run_dir="/run")
    cluster = Cluster(
        name=made.name,
        scheduler=SchedulerSpec(kind="pbs", options=options),
        runner=made.runner,
        link=made.link,
        run_dir="/run",
    )
    return PbsScheduler(cluster, installation="abcdefgh")


def submission(resources: Resources) -> Submission:
    return Submission(tag=TAG, run_dir="/run/j-1", script="/run/j-1/start.sh", resources=resources)


def argv(resources: Resources | None = None, **options: Any) -> tuple[str, ...]:
    return dialect(**options).submit(submission(resources or Resources(walltime_s=300))).argv


def asked(words: tuple[str, ...], option: str) -> list[str]:
    """List what is given to an option."""
    return [value for name, value in pairwise(words) if name == option]


def test_the_script_is_executed_as_the_jobs_top_process_and_nothing_of_our_environment_goes_along() -> None:
    words = argv()
    assert words[0] == "qsub"
    assert words[-2:] == ("--", "/run/j-1/start.sh")
    assert asked(words, "-N") == [TAG]
    assert asked(words, "-r") == ["n"]
    assert asked(words, "-W") == ["umask=077"]
    assert asked(words, "-o") == ["/run/j-1/pbs.out"]
    assert not {"-V", "-v"} & set(words)
    assert asked(words, "-l") == ["select=1", "walltime=00:05:00"]


def test_all_that_a_site_may_want() -> None:
    resources = Resources(
        nodes=2,
        gpus=8,
        cpus=64,
        memory_bytes=100 * 1024 + 1,
        walltime_s=43_200.5,
        options={"gpu_type": "A100", "constraint": "system=polaris", "exclusive": True, "extra": ["-P proj"]},
    )
    words = argv(resources, partition="by-node", account="myproject", extra=["-l filesystems=home:eagle"])
    assert asked(words, "-q") == ["by-node"]
    assert asked(words, "-A") == ["myproject"]
    assert asked(words, "-P") == ["proj"]
    assert asked(words, "-l") == [
        "select=2:ncpus=64:ngpus=8:mem=101kb:accelerator_model=A100:system=polaris",
        "place=scatter:excl",
        "walltime=12:00:01",
        "filesystems=home:eagle",
    ]


def test_gpus_are_not_asked_for_where_nodes_come_with_all_they_have() -> None:
    assert asked(argv(Resources(gpus=4), gpu_request="none"), "-l") == ["select=1"]
    assert asked(argv(Resources(gpus=4), gpu_request="select"), "-l") == ["select=1:ngpus=4"]


def test_a_kind_of_gpu_may_be_a_resource_of_the_sites_own() -> None:
    words = argv(Resources(gpus=1, options={"gpu_type": "gpu_type=h100"}))
    assert asked(words, "-l") == ["select=1:ngpus=1:gpu_type=h100"]


def test_one_whole_node() -> None:
    assert asked(argv(Resources(options={"exclusive": True})), "-l") == ["select=1", "place=excl"]


def test_a_reservation_is_a_queue() -> None:
    words = argv(Resources(options={"reservation": "R41.pbs1"}), partition="gpu")
    assert asked(words, "-q") == ["R41"]


def test_another_server_than_the_usual() -> None:
    made = dialect(conf="/etc/pbs-b.conf")
    assert made.cancel(["1.b"])[0].argv == ("env", "PBS_CONF_FILE=/etc/pbs-b.conf", "qdel", "1.b")
    listing = made.observe()[1].argv
    assert listing[:4] == ("env", "PBS_CONF_FILE=/etc/pbs-b.conf", "TZ=UTC0", "qstat")


def test_the_start_script_is_a_login_shell_of_its_own_in_whose_place_the_launcher_goes_on() -> None:
    script = dialect().script(submission(Resources()), setup="module load conda", launcher="/run/launcher-1.pyz")
    assert script.startswith("#!/bin/bash -l\n")
    assert "\nexec python3 -I -S /run/launcher-1.pyz job.json || exit\n" in script
    other = dialect(python="/opt/python/bin/python3.12").script(submission(Resources()), setup="", launcher="/l.pyz")
    assert "\nexec /opt/python/bin/python3.12 -I -S /l.pyz job.json" in other


@pytest.mark.parametrize(("seconds", "text"), [(20, "00:00:20"), (0.2, "00:00:01"), (360_000, "100:00:00")])
def test_walltimes_are_rounded_up(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text
    assert (read_duration(text) or 0) >= seconds


# ------------------------------------------------------------------------------------------------------ qsub's answers
def answer(code: int, err: str, out: str = "") -> Accepted | Rejected | Unsure:
    return dialect().parse_submit(Done(code=code, out=out.encode(), err=err.encode()))


@pytest.mark.parametrize(
    ("out", "number"),
    [("18.pbs1\n", "18.pbs1"), ("a banner of the site\n18.pbs1.example.org\n", "18.pbs1.example.org"), ("12", "12")],
)
def test_a_job_id_is_read_also_below_a_sites_banner(out: str, number: str) -> None:
    assert answer(0, "", out) == Accepted(scheduler_id=number)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (170, "qsub: Unknown queue"),
        (188, "qsub: Job violates queue and/or server resource limits"),
        (187, "qsub: Unknown resource: nosuch"),
        (187, "qsub: Unknown resource: ngpus"),
        (166, "qsub: Illegal attribute or resource value Resource_List.walltime"),
        (1, "qsub: script file:: No such file or directory"),
        (159, "qsub: Unauthorized Request"),
        (32, "qsub: Please tell which filesystems you need"),  # a site's own rule
        (201, "qsub: Invalid account"),
    ],
)
def test_refusals_that_waiting_does_not_mend_hold_with_the_schedulers_own_words(code: int, err: str) -> None:
    assert answer(code, err + "\n") == Rejected(detail=err, reason=Reason.SUBMIT_REJECTED)
    assert Reason.SUBMIT_REJECTED not in HEALING


@pytest.mark.parametrize(
    ("code", "err", "reason"),
    [
        (173, "qsub: Queue is not enabled", Reason.SUBMIT_FAILED),
        (212, "qsub: request rejected -server shutting down", Reason.SUBMIT_FAILED),
        (198, "qsub: Maximum number of jobs already in queue", Reason.SITE_LIMIT),
        (38, "qsub: would exceed queue gpu's per-user limit", Reason.SITE_LIMIT),
    ],
)
def test_refusals_that_pass_by_themselves_are_tried_again(code: int, err: str, reason: Reason) -> None:
    assert answer(code, err) == Rejected(detail=err, reason=reason)
    assert reason in HEALING


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (162, "Connection refused\nqsub: cannot connect to server pbs1 (errno=15010)"),
        (255, "auth: Unable to authenticate connection (pbs1:15001)\nqsub: cannot connect to server pbs1 (errno=-1)"),
    ],
)
def test_without_a_connection_nothing_was_submitted(code: int, err: str) -> None:
    refused = answer(code, err)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.SUBMIT_FAILED
    assert refused.detail == err.replace("\n", "; ")


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (162, "qsub: system error occurred"),
        (163, "qsub: internal server error occurred"),
        (183, "qsub: Batch Protocol error"),
        (137, ""),
        (-9, ""),
        (255, ""),
        (0, ""),
    ],
)
def test_what_broke_off_in_the_middle_may_have_been_submitted(code: int, err: str) -> None:
    assert isinstance(answer(code, err), Unsure)


def test_a_time_out_may_have_been_submitted_and_what_was_not_run_was_not() -> None:
    assert dialect().parse_submit(Unknown(detail="timed out")) == Unsure(detail="timed out")
    refused = Rejected(detail="no route", reason=Reason.SUBMIT_FAILED)
    assert dialect().parse_submit(Refused(detail="no route")) == refused


def test_the_usage_text_below_a_complaint_is_left_out() -> None:
    err = "qsub: illegal -N value\nusage: qsub [-a date_time] [-A account_string] [-c interval]\n\t[-C prefix]\n"
    assert answer(2, err) == Rejected(detail="qsub: illegal -N value", reason=Reason.SUBMIT_REJECTED)


def test_one_command_cancels_all() -> None:
    assert [one.argv for one in dialect().cancel(["18.pbs1", "19.pbs1"])] == [("qdel", "18.pbs1", "19.pbs1")]
    assert dialect().cancel([]) == []


@pytest.mark.parametrize(
    ("code", "err", "said"),
    [
        (0, "", ""),
        (35, "qdel: Job has finished 27.pbs1\nqdel: Unknown Job Id 99.pbs1\n", ""),
        (168, "qdel: Request invalid for state of job 27.pbs1\n", ""),
        (
            159,
            "qdel: Job has finished 27.pbs1\nqdel: Unauthorized Request  18.pbs1\n",
            "qdel: Unauthorized Request  18.pbs1",
        ),
        (162, "Connection refused\nqdel: cannot connect\n", "Connection refused; qdel: cannot connect"),
        (139, "", "exit code 139"),
    ],
)
def test_cancelling_what_has_ended_or_never_was_is_no_complaint(code: int, err: str, said: str) -> None:
    assert dialect().parse_cancel([Done(code=code, out=b"", err=err.encode())]) == said
