# SPDX-License-Identifier: Apache-2.0
"""Nudges between processes, as datagrams and as NOTIFY: fast when they work, and never in anybody's way."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from firstkit.adapters.store.nudge import FOLDER, DatagramNudge, open_nudge

pytestmark = pytest.mark.anyio

DEADLINE_S = 20


class Heard:
    """Notes what was heard and lets a test wait for it."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self._news = anyio.Event()

    def __call__(self, topic: str) -> None:
        self.topics.append(topic)
        self._news.set()

    async def until(self, topic: str) -> None:
        with anyio.fail_after(DEADLINE_S):
            while topic not in self.topics:
                await self._news.wait()
                self._news = anyio.Event()

    async def connected(self, sender: Any, topic: str) -> None:
        """Wait until nudges arrive: those sent before somebody listened are rightly lost."""
        with anyio.fail_after(DEADLINE_S):
            while topic not in self.topics:
                sender.send(topic)
                with anyio.move_on_after(0.05):
                    await self._news.wait()
                self._news = anyio.Event()
        self.topics.clear()


async def test_a_nudge_reaches_who_listens_to_its_topic(place: Any) -> None:
    demand, catalog = Heard(), Heard()
    async with (
        open_nudge(place.settings, folder=place.folder) as one,
        open_nudge(place.settings, folder=place.folder) as two,
    ):
        two.listen(("demand", "report"), demand)
        two.listen(("catalog",), catalog)
        await demand.connected(one, "report")
        await catalog.connected(one, "catalog")
        demand.topics.clear()
        one.send("demand")
        await demand.until("demand")
        one.send("snapshot")
        one.send("catalog")
        await catalog.until("catalog")
        assert "snapshot" not in demand.topics + catalog.topics
        assert set(catalog.topics) == {"catalog"}


async def test_a_nudge_from_another_process_arrives(place: Any) -> None:
    program = (
        "import anyio, sys\n"
        "from pathlib import Path\n"
        "from firstkit.adapters.store.nudge import open_nudge\n"
        "from firstkit.core.settings import StoreSettings\n"
        "async def main():\n"
        "    async with open_nudge(StoreSettings(url=sys.argv[1]), folder=Path(sys.argv[2])) as nudge:\n"
        "        while True:\n"
        "            nudge.send('keys')\n"
        "            await anyio.sleep(0.05)\n"
        "anyio.run(main)\n"
    )
    heard = Heard()
    async with open_nudge(place.settings, folder=place.folder) as nudge:
        nudge.listen(("keys",), heard)
        command = [sys.executable, "-c", program, place.settings.url, str(place.folder)]
        async with await anyio.open_process(command, stdout=None, stderr=None) as sender:
            try:
                await heard.until("keys")
            finally:
                sender.kill()


async def test_nobody_listening_is_no_error(place: Any) -> None:
    async with open_nudge(place.settings, folder=place.folder) as nudge:
        nudge.send("demand")


async def test_a_topic_is_a_word(place: Any) -> None:
    async with open_nudge(place.settings, folder=place.folder) as nudge:
        with pytest.raises(ValueError, match="topic"):
            nudge.listen(("../up",), print)


async def test_sending_after_the_end_does_nothing(place: Any) -> None:
    async with open_nudge(place.settings, folder=place.folder) as nudge:
        pass
    nudge.send("demand")


# -------------------------------------------------------------------------------------------------- datagrams alone


async def test_what_a_killed_listener_left_is_removed_by_the_next_nudge(tmp_path: Path) -> None:
    nudge = DatagramNudge(tmp_path / FOLDER)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(tmp_path / FOLDER / "demand.1.aa"))
    dead.close()  # as the kernel does at kill -9: the file stays
    nudge.send("demand")
    nudge.close()
    assert list((tmp_path / FOLDER).iterdir()) == []


async def test_a_listener_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    heard = Heard()
    nudge = DatagramNudge(tmp_path / FOLDER)
    nudge.listen(("demand",), heard)
    for _ in range(5000):
        nudge.send("demand")
    await heard.until("demand")
    nudge.close()
    assert len(heard.topics) < 5000


async def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    heard = Heard()
    nudge = DatagramNudge(tmp_path / ("long" * 40) / FOLDER)
    nudge.listen(("demand", "report", "catalog", "snapshot"), heard)
    nudge.send("report")
    await heard.until("report")
    nudge.close()
    assert heard.topics == ["report"]


async def test_only_the_owner_can_nudge(tmp_path: Path) -> None:
    DatagramNudge(tmp_path / FOLDER).close()
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
    assert (tmp_path / FOLDER).stat().st_uid == os.getuid()


# ----------------------------------------------------------------------------------------------------- NOTIFY alone


@pytest.mark.postgres
async def test_nudges_go_on_after_the_connection_was_lost(postgres: Any, tmp_path: Path) -> None:
    from firstkit.core.settings import StoreSettings

    name = postgres.create()
    settings = StoreSettings(url=postgres.url(name))
    heard = Heard()
    async with open_nudge(settings, folder=tmp_path) as one, open_nudge(settings, folder=tmp_path) as two:
        two.listen(("demand",), heard)
        await heard.connected(one, "demand")
        assert postgres.cut(name) == 2
        await heard.until("demand")  # whoever was away looks once
        heard.topics.clear()
        one.send("demand")
        await heard.until("demand")
    postgres.drop(name)


@pytest.mark.postgres
async def test_a_postgres_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    from firstkit.core.settings import StoreSettings

    settings = StoreSettings(url=f"postgresql://me@/x?host={tmp_path}")
    async with open_nudge(settings, folder=tmp_path) as nudge:
        nudge.listen(("demand",), print)
        nudge.send("demand")
