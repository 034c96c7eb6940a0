# SPDX-License-Identifier: Apache-2.0
"""The one process below a test that holds a simulated site's daemons, however often they are killed and started.

It takes orders on its standard input, a line each (`start server`, `kill node pbs1`, `stop server`, `continue server`),
and answers each with a line. At the end of its input it ends everything, also the jobs of lost nodes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from firstkit.testing.simulated_pbs.mom import signal_all

PROGRAMS = {"server": "firstkit.testing.simulated_pbs.listener", "node": "firstkit.testing.simulated_pbs.mom"}


class Keeper:
    """Holds the daemons, by the names that orders give them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def obey(self, order: str) -> None:
        """Carry out one order; it has taken effect when this returns."""
        verb, _, name = order.partition(" ")
        if verb == "start":
            self._start(name)
            return
        daemon = self._daemons[name]
        if verb == "kill":
            daemon.kill()
            daemon.wait()
            del self._daemons[name]
        else:
            daemon.send_signal({"stop": signal.SIGSTOP, "continue": signal.SIGCONT}[verb])

    def _start(self, name: str) -> None:
        kind, *which = name.split()
        program = [sys.executable, "-m", PROGRAMS[kind], str(self._folder), *which]
        daemon = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._daemons[name] = daemon
        if daemon.stdout is not None:
            with daemon.stdout:
                daemon.stdout.readline()  # it says that it is ready

    def end(self) -> None:
        """End everything."""
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        for file in self._folder.glob("*.session"):
            signal_all(int(file.read_text()), signal.SIGKILL)


def main(folder: Path) -> None:
    """Obey until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper(folder)
    try:
        for line in sys.stdin:
            keeper.obey(line.strip())
            sys.stdout.write("done\n")
            sys.stdout.flush()
    finally:
        keeper.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
