# SPDX-License-Identifier: Apache-2.0
"""Real jobs of the local scheduler whose walltime ends again and again under continuous streaming: none is cut."""

import threading
from collections.abc import Generator

import pytest
from installation import Installation, installation
from paced import Stream, asks, config, paced

pytestmark = pytest.mark.timeout(300)

ENDS, STREAMS, AT_ONCE, TOKENS = 4, 100, 4, 15


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    handed = paced("handed", arguments=("--load-s", "0.5")) | {"resources": {"walltime": "28s"}}
    with installation(tmp_path_factory.mktemp("walltimes"), config=config(deployments={"handed": handed})) as it:
        it.wait_hot("handed")
        yield it


class Streaming(threading.Thread):
    """Asks for one stream after another until told to stop; each must be whole."""

    def __init__(self, running: Installation, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._over = over
        self.whole = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            stream = Stream(self._running, asks(f"tokens={TOKENS} every=0.1", model="handed", stream=True))
            try:
                stream.assert_whole(TOKENS)
            except AssertionError as error:
                self.wrong.append(f"{stream.headers.get('x-first-instance')}: {error}")
            else:
                self.whole += 1


def test_walltimes_end_under_continuous_streams_and_not_one_is_cut(running: Installation) -> None:
    over = threading.Event()
    threads = [Streaming(running, over) for _ in range(AT_ONCE)]

    def ended() -> list[str]:
        return [one["reason"] for one in running.instances(ended=True) if one["state"] == "ENDED"]

    for thread in threads:
        thread.start()
    try:
        running.until(
            lambda: (
                (len(ended()) >= ENDS and sum(thread.whole for thread in threads) >= STREAMS)
                or any(thread.wrong for thread in threads)
            ),
            within_s=240,
        )
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    wrong = [text for thread in threads for text in thread.wrong]
    assert not wrong, f"{len(wrong)} of {sum(thread.whole for thread in threads)}: {wrong[:3]}"
    assert set(ended()) == {"WALLTIME"}
    successors = [one for one in running.instances() if one["replaces"]]
    assert successors, "what serves now took over from another one"
