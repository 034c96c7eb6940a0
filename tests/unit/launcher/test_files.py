# SPDX-License-Identifier: Apache-2.0
"""What the launcher writes and reads on disk: its claim, folders, logs and reports."""

import json
import os
import stat
from pathlib import Path

import pytest

from firstkit.launcher.claim import AlreadyClaimed, Identity, claim, identify
from firstkit.launcher.documents import EngineSpec, Health
from firstkit.launcher.enginelog import MAX_LINE_BYTES, EngineLog
from firstkit.launcher.environment import engine_environment, expand
from firstkit.launcher.folders import make_places, remove_tree, unreadable, write_private
from firstkit.launcher.records import LauncherLog, write_whole


class Log:
    """An engine's log with the engine's end of the pipe."""

    def __init__(self, folder: Path, *secrets: str) -> None:
        read, self.write_end = os.pipe()
        self.seen: list[str] = []
        self.path = folder / "engine.log"
        self.log = EngineLog(read, str(self.path), secrets=secrets, on_line=self.seen.append)

    def says(self, data: bytes) -> None:
        os.write(self.write_end, data)
        self.log.drain()

    def close(self) -> None:
        os.close(self.write_end)
        self.log.close()


def test_a_claim_is_granted_once(tmp_path: Path) -> None:
    claim(str(tmp_path), Identity("12.pbs", "node1.site", 7, "node1"))
    with pytest.raises(AlreadyClaimed):
        claim(str(tmp_path), Identity("13.pbs", "node2", 8))
    told = json.loads((tmp_path / "claim").read_text())
    assert told == {"scheduler_id": "12.pbs", "host": "node1.site", "pid": 7, "node": "node1"}


def test_the_schedulers_id_is_taken_from_the_environment() -> None:
    assert identify({"SLURM_JOB_ID": "12"}).scheduler_id == "12"
    assert identify({"PBS_JOBID": "12.server"}).scheduler_id == "12.server"
    assert identify({"SLURM_JOB_ID": ""}).scheduler_id == str(os.getpid())


def test_a_node_is_called_as_the_scheduler_calls_it_or_else_by_its_own_name() -> None:
    assert identify({"SLURMD_NODENAME": "c1"}).node == "c1"
    assert identify({}).node == identify({}).host


def test_lines_arrive_whole_however_the_pipe_cuts_them(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for piece in (b"fir", b"st\nsec", b"ond\r", b"third\r\n\n", b"unfinished"):
        log.says(piece)
    assert log.seen == ["first", "second", "third"]
    log.close()
    assert log.seen[-1] == "unfinished"
    assert log.path.read_bytes() == b"first\nsecond\rthird\r\n\nunfinished\n"


def test_an_endless_line_is_cut_and_not_kept_in_memory(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(10):
        log.says(b"x" * 16_000)
    assert max(len(line) for line in log.log.lines()) <= 2 * MAX_LINE_BYTES
    log.close()
    assert log.path.read_bytes().count(b"x") == 160_000


def test_a_secret_is_struck_out_even_when_the_pipe_cuts_it(tmp_path: Path) -> None:
    log = Log(tmp_path, "canary")
    log.says(b"the key is can")
    log.says(b"ary, dear\n")
    log.close()
    assert log.path.read_bytes() == b"the key is ***, dear\n"
    assert log.log.tail() == ["the key is ***, dear"]


def test_a_tail_is_short_and_its_lines_too(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for number in range(300):
        log.says(f"{number} {'y' * 1000}\n".encode())
    log.close()
    assert len(log.log.lines()) == 200
    assert [line.split()[0] for line in log.log.tail()] == [str(number) for number in range(280, 300)]
    assert {len(line) for line in log.log.tail()} == {500}


def test_a_log_that_cannot_be_written_is_still_read(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.path.mkdir()
    log.says(b"CUDA out of memory\n")
    assert log.log.trouble == "engine.log cannot be written: Is a directory"
    assert log.seen == ["CUDA out of memory"]
    log.path.rmdir()
    log.says(b"more\n")
    assert log.log.trouble is None
    log.close()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert write_whole(str(path), b"{}") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_whole("/dev/full/status.json", b"{}") == "status.json cannot be written: Not a directory"
    (tmp_path / "status.json.new").symlink_to("/dev/full")
    assert write_whole(str(path), b"new") == "status.json cannot be written: No space left on device"
    assert path.read_bytes() == b"{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_the_launchers_log_strikes_secrets_out_and_survives_a_missing_folder(tmp_path: Path) -> None:
    log = LauncherLog(str(tmp_path), secrets=["canary"], began=0.0)
    log.note("said canary")
    assert (tmp_path / "launcher.log").read_text().endswith(" said ***\n")
    LauncherLog(str(tmp_path / "gone"), secrets=[], began=0.0).note("unheard")


def test_places_are_private_and_short(tmp_path: Path) -> None:
    short: list[str] = []
    places = make_places(str(tmp_path / ("x" * 90)), "i-1", str(tmp_path), new_short=short.append)
    assert [places.short] == short
    assert len(places.socket) <= 100
    assert len(places.tmp) <= 60
    for path in (places.folder, places.work, places.home, places.cache, places.tmp, short[0]):
        assert stat.S_IMODE(Path(path).stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(Path(short[0]).stat().st_mode) == 0o700
    remove_tree(short[0])
    assert not Path(short[0]).exists()


def test_a_secret_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o644)
    write_private(str(path), "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert unreadable([str(tmp_path), str(tmp_path / "there")]) is None
    assert unreadable([str(tmp_path / "not")]) == f"{tmp_path}/not: No such file or directory"


def test_only_known_placeholders_are_replaced(tmp_path: Path) -> None:
    places = make_places(str(tmp_path), "i-1", None, new_short=lambda _path: None)
    text = expand('{dir}|{port}|{"a": {x}}|{cache}', places, 7)
    assert text == f'{places.folder}|7|{{"a": {{x}}}}|{places.cache}'
    if places.short:
        remove_tree(places.short)


def test_the_adapters_environment_has_the_last_word_but_for_our_mark(tmp_path: Path) -> None:
    places = make_places(str(tmp_path), "i-1", None, new_short=lambda _path: None)
    spec = EngineSpec(
        kind="x",
        argv=("x",),
        env={"HF_HUB_OFFLINE": "0", "PATH": "/venv/bin", "FIRST_MARK": "other"},
        listen="unix",
        key=None,
        health=Health("/health", 0.1, 5.0),
        serves=None,
        guarded=(),
        start_timeout_s=1,
        stop_signal="TERM",
        stop_grace_s=1,
        progress=(),
        causes=(),
        files=(),
    )
    job = {"PATH": "/usr/bin", "SECRET": "canary", "LD_LIBRARY_PATH": "/cuda", "https_proxy": "http://proxy"}
    environment = engine_environment(job, instance="i-1", mark="m", spec=spec, places=places, port=None)
    assert "canary" not in environment.values()
    assert "https_proxy" not in environment
    assert (environment["PATH"], environment["HF_HUB_OFFLINE"]) == ("/venv/bin", "0")
    assert (environment["LD_LIBRARY_PATH"], environment["FIRST_INSTANCE"]) == ("/cuda", "i-1")
    assert environment["FIRST_MARK"] == "m"
    if places.short:
        remove_tree(places.short)
