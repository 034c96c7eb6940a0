# SPDX-License-Identifier: Apache-2.0
"""Proof at length: walltimes end again and again under continuous streams, on a real Slurm or the local scheduler.

`make proof` runs it with hand-over and without, and keeps what came of both. Engines are paced stand-ins; `--ends` and
`--streams` say how much is enough. A stream is *cut* when it broke or ended with an error, *short* when it ended as if
it were whole and was not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from installation import Installation, installation
from paced import Stream, asks, config, paced
from slurm_site import on_slurm, slurm_config

from firstkit.testing.slurm import RealSlurm

LOAD_S = 3.0
LONGEST = 120
"""Tokens of the longest stream, ten a second."""


@contextlib.contextmanager
def site(cluster: str, folder: Path, *, walltime_s: int, handover: str) -> Iterator[dict[str, Any]]:
    """Have a cluster of that kind, and give the configuration that uses it."""
    handed = paced("handed", arguments=("--load-s", str(LOAD_S)), handover=handover)
    walltime = {"walltime": f"{walltime_s}s"}
    if cluster == "local":
        yield config(deployments={"handed": handed | {"resources": walltime}})
        return
    (folder / "slurm").mkdir()
    slurm = RealSlurm(folder / "slurm")
    slurm.start()
    try:
        yield slurm_config(slurm, {"handed": on_slurm(handed, **walltime)})
    finally:
        slurm.stop()


class Streaming(threading.Thread):
    """Asks for one stream after another, of changing length, some with `max_tokens`, until told to stop."""

    def __init__(self, running: Installation, over: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._over = over
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.longest_wait_s = 0.0
        self.told: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            tokens = self._random.choice((5, 20, 50, LONGEST))
            most = {"max_tokens": tokens} if self._random.random() < 0.5 else {}
            began = time.monotonic()
            stream = Stream(self._running, asks(f"tokens={tokens} every=0.1", model="handed", stream=True, **most))
            self.counts[self._judge(stream, tokens)] += 1
            self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - began - tokens * 0.1)

    def _judge(self, stream: Stream, tokens: int) -> str:
        data = stream.end(within_s=900)
        whole = stream.text == "".join(f"w{number} " for number in range(tokens))
        if data.endswith(b"data: [DONE]\n\n") and stream.broken is None:
            return "whole" if whole else "short"
        self.told.append(f"{stream.status} {stream.broken!r} {data[-200:]!r}")
        return "cut"


def prove(cluster: str, *, walltime_s: int, ends: int, streams: int, at_once: int, handover: str) -> dict[str, Any]:
    """Run until so many jobs have ended and so many streams were asked for; say what came of them."""
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        folder = Path(name)
        (folder / "state").mkdir()
        with (
            site(cluster, folder, walltime_s=walltime_s, handover=handover) as wanted,
            installation(folder / "state", config=wanted) as running,
        ):
            running.wait_hot("handed", within_s=120)
            over = threading.Event()
            threads = [Streaming(running, over, seed) for seed in range(at_once)]
            began = time.monotonic()
            for thread in threads:
                thread.start()

            def reasons() -> Counter[str]:
                ended = (one for one in running.instances(ended=True) if one["state"] == "ENDED")
                return Counter(one["reason"] for one in ended)

            def enough() -> bool:
                return reasons().total() >= ends and sum(thread.counts.total() for thread in threads) >= streams

            try:
                running.until(enough, within_s=(ends + 2) * walltime_s + streams * LONGEST / 10)
            finally:
                over.set()
                for thread in threads:
                    thread.join(900)
            counts = sum((thread.counts for thread in threads), Counter[str]())
            return {
                "cluster": cluster,
                "handover": handover,
                "walltime_s": walltime_s,
                "engine": "a paced stand-in, ten tokens a second",
                "seconds": round(time.monotonic() - began),
                "streams": {name: counts[name] for name in ("whole", "cut", "short")},
                "ends": dict(reasons()),
                "longest_wait_s": round(max(thread.longest_wait_s for thread in threads), 1),
                "examples": [text for thread in threads for text in thread.told][:3],
            }


def main() -> int:
    """Prove it with hand-over, and run the same without; the exit code is 1 if a stream was cut or short with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", choices=("slurm", "local"), default="slurm")
    parser.add_argument("--walltime", type=int, default=180, help="seconds; Slurm counts whole minutes")
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--without", action="store_true", help="also run the same without hand-over")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    results = [
        prove(
            asked.cluster,
            walltime_s=asked.walltime,
            ends=asked.ends,
            streams=asked.streams,
            at_once=asked.at_once,
            handover=handover,
        )
        for handover in (("on", "off") if asked.without else ("on",))
    ]
    text = json.dumps(results, indent=2) + "\n"
    if asked.out is not None:
        asked.out.write_text(text)
    print(text)
    found = results[0]["streams"]
    return 1 if found["cut"] or found["short"] else 0


if __name__ == "__main__":
    sys.exit(main())
