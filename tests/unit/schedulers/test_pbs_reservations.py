# SPDX-License-Identifier: Apache-2.0
"""What the PBS dialect reads of reservations, and where a job runs."""

import json
from typing import Any

import pytest

from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.adapters.schedulers.pbs_reservations import vnodes
from firstkit.ports.runner import Done, Refused, Result, Unknown
from firstkit.ports.scheduler import Window
from firstkit.testing.records import make_cluster

NOW = 1795556404  # Tue Nov 24 21:40:04 2026 UTC
MAINTENANCE = """\
Resv ID: M38.pbs1
Reserve_Name = maint1
Reserve_Owner = root@pbs1
reserve_type = 2
reserve_state = RESV_CONFIRMED
reserve_substate = 2
reserve_start = Tue Nov 24 22:40:04 2026
reserve_end = Tue Nov 24 23:40:04 2026
reserve_duration = 3600
queue = M38
Resource_List.ncpus = 32
Resource_List.select = host=pbs1:ncpus=32
resv_nodes = (pbs1:ncpus=32)
Authorized_Users = root@pbs1
server = pbs1

"""


def windows(reservations: str, *nodes: str, state: str = "free") -> tuple[Window, ...] | None:
    """Read reservations at a site with these nodes of 32 processors each."""
    shown: dict[str, Any] = {
        name: {"Mom": name, "state": state, "pcpus": 32, "resources_available": {"ncpus": 32}} for name in nodes
    }
    told = json.dumps({"timestamp": NOW, "pbs_version": "23.06.06", "nodes": shown}, indent="\t").encode()
    return parse(Done(code=0, out=reservations.encode(), err=b""), Done(code=0, out=told, err=b""))


def only(told: tuple[Window, ...] | None) -> Window:
    assert told is not None
    assert len(told) == 1
    return told[0]


def parse(*results: Result, now: bytes = b"1795556404\n") -> tuple[Window, ...] | None:
    scheduler = PbsScheduler(make_cluster(run_dir="/run"), installation="abcdefgh")
    return scheduler.parse_windows([*results, Done(code=0, out=now, err=b"")])


def test_a_maintenance_of_all_nodes_concerns_every_job() -> None:
    assert windows(MAINTENANCE, "pbs1") == (Window(name="M38", starts_in_s=3600.0, ends_in_s=7200.0, nodes=None),)


def test_a_maintenance_of_some_nodes_names_them() -> None:
    window = only(windows(MAINTENANCE, "pbs1", "pbs2"))
    assert window.nodes == {"pbs1"}
    both = MAINTENANCE.replace("(pbs1:ncpus=32)", "(pbs1:ncpus=32)+(pbs2:ncpus=32)")
    window = only(windows(both, "pbs1", "pbs2"))
    assert window.nodes is None


def test_nodes_that_are_down_are_not_waited_for() -> None:
    shown: dict[str, Any] = {
        "pbs1": {"state": "free", "resources_available": {"ncpus": 32}},
        "pbs2": {"state": "state-unknown,down", "resources_available": {"ncpus": 32}},
        "pbs3": {"state": "offline", "resources_available": {}},
        "x": {"Error": "Unknown node "},
    }
    del shown["x"]
    nodes = Done(code=0, out=json.dumps({"nodes": shown}).encode(), err=b"")
    window = only(parse(Done(code=0, out=MAINTENANCE.encode(), err=b""), nodes))
    assert window.nodes is None


def test_a_users_reservation_leaves_running_jobs_alone_and_takes_jobs_that_name_it() -> None:
    """PBS grants it only where nothing runs by then."""
    mine = MAINTENANCE.replace("M38", "R41").replace("(pbs1:ncpus=32)", "(pbs1:ncpus=4)")
    window = only(windows(mine, "pbs1"))
    assert (window.name, window.nodes, window.jobs) == ("R41", frozenset(), True)
    whole = MAINTENANCE.replace("M38", "R41")
    window = only(windows(whole, "pbs1"))
    assert (window.nodes, window.jobs) == (None, True)


@pytest.mark.parametrize("state", ["UNCONFIRMED", "FINISHED", "DELETED", "BEING_DELETED", "WAIT", "SOMETHING_NEW"])
def test_a_reservation_that_holds_nothing_is_none(state: str) -> None:
    assert windows(MAINTENANCE.replace("RESV_CONFIRMED", f"RESV_{state}"), "pbs1") == ()


def test_one_that_has_begun_starts_in_the_past() -> None:
    running = MAINTENANCE.replace("RESV_CONFIRMED", "RESV_RUNNING").replace("24 22:40:04", "24 21:30:04")
    window = only(windows(running, "pbs1"))
    assert (window.starts_in_s, window.ends_in_s) == (-600.0, 7200.0)


def test_no_reservations_is_an_answer_and_a_failure_is_none() -> None:
    assert windows("", "pbs1") == ()
    nodes = Done(code=0, out=b'{"nodes": {}}', err=b"")
    down = Done(code=162, out=b"", err=b"Connection refused\npbs_rstat: cannot connect to server pbs1 (errno=15010)\n")
    assert parse(down, nodes) is None
    assert parse(Done(code=0, out=b"", err=b""), Done(code=1, out=b"", err=b"Connection refused")) is None
    assert parse(Done(code=0, out=b"", err=b""), Done(code=0, out=b"{", err=b"")) is None
    assert parse(Unknown(detail="timed out"), Refused(detail="not tried")) is None
    assert parse(Done(code=0, out=b"", err=b""), nodes, now=b"") is None


def test_text_that_is_cut_or_strange_breaks_nothing() -> None:
    for cut in range(len(MAINTENANCE)):
        assert windows(MAINTENANCE[:cut], "pbs1") is not None
    assert windows("Resv ID: \n = \n===\nqueue = \n", "pbs1") == ()


def test_where_a_job_runs_is_read_host_by_host() -> None:
    assert vnodes("(a:ncpus=2:mem=1kb+b[0]:ncpus=4)+(b[1]:ncpus=4)").keys() == {"a", "b"}
    assert vnodes("") == {}
