# SPDX-License-Identifier: Apache-2.0
"""Usage records on their way into the store: into a file at once, from there in batches; none lost, none twice.

A gateway appends each finished attempt as one line to a file of its own, with one write, so that what has been written
survives kill -9. The store thread moves lines into the store and removes a file when all of it is there. Whatever step
is interrupted is simply done again, since the store ignores attempts that it has (request, attempt). A file on which no
process holds a lock is a dead gateway's, and anybody who shares the folder takes it over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import msgspec

from firstkit.core.errors import FirstError
from firstkit.ports.store import AttemptRow, GatewayStore, StoreUnavailable
from firstkit.ports.telemetry import Journal
from firstkit.services.spool import SUFFIX, Spool, read_row
from firstkit.services.store_thread import StoreThread

BATCH = 500
ROTATE_BYTES = 4_000_000
SWEEP_EVERY_S = 1.0
SWEEP_BUDGET_S = 0.02
"""A sweep ends with the batch in which it has taken so long; the rest is on disk and waits for the next. So neither the
loop (Python's lock) nor others in the store thread wait for more."""
BEHIND_BYTES = 4_000_000
SWEEP_OFTEN_S = 0.08
"""With so much more on disk sweeps come twice, three times, … as often, up to so often: the disk must not fill up only
because requests end faster than they are settled."""
ADOPT_EVERY_S = 30.0
AWAY_MAX_S = 30.0

_REFUSED = "refused.jsonl"
_CHUNK = 1 << 20


class Settlement:
    """Moves spooled attempts into the store: this process's own and those of dead ones. Runs in the store thread."""

    def __init__(self, spool: Spool, store: GatewayStore, *, folder: Path, journal: Journal) -> None:
        self._spool = spool
        self._store = store
        self._folder = folder
        self._journal = journal
        self._read = 0
        self._read_of = spool.path
        self._rotated: deque[Path] = deque()
        self.settled = 0
        self.torn = 0
        self.refused = 0

    @property
    def behind_bytes(self) -> int:
        """Say about how much this process has recorded that is not in the store yet (any thread)."""
        read = self._read if self._read_of == self._spool.path else 0
        return max(0, self._spool.size - read) + len(self._rotated) * ROTATE_BYTES

    @property
    def rest_s(self) -> float:
        """Say how long to wait before the next sweep: the shorter, the more has been left."""
        return max(min(SWEEP_OFTEN_S, SWEEP_EVERY_S), SWEEP_EVERY_S / (1 + self.behind_bytes / BEHIND_BYTES))

    @property
    def idle(self) -> bool:
        """Tell whether there is nothing to settle (any thread)."""
        return (
            not (self._rotated or self._spool.unwritten)
            and self._read_of == self._spool.path
            and (self._spool.size <= self._read)
        )

    def sweep(self, *, budget_s: float | None = None) -> int:
        """Settle what this process has recorded; return how many attempts were new to the store.

        Raises StoreUnavailable (all that is not settled stays where it is) when the store is away.
        """
        until = float("inf") if budget_s is None else time.monotonic() + budget_s
        self._spool.flush()
        new = self._settle_kept()
        while self._rotated and time.monotonic() < until:
            settled, whole = self._settle_rest(self._rotated[0], until)
            new += settled
            if whole:
                self._rotated.popleft()
        if not self._rotated:
            new += self._settle_own(until)
        if self._spool.size >= ROTATE_BYTES:
            with contextlib.suppress(OSError):  # no room for a new file: the old one goes on
                self._rotated.append(self._spool.rotate())
        self.settled += new
        return new

    def adopt(self) -> int:
        """Settle and remove the files of dead gateways; return how many attempts were new to the store."""
        new = 0
        own = {self._spool.path, *self._rotated}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path not in own:
                new += self._adopt_one(path)
        self.settled += new
        return new

    def _adopt_one(self, path: Path) -> int:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENOENT:  # somebody else has just settled it
                self._journal("spool_unreadable", file=path.name, detail=error.strerror)
            return 0
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its owner lives, or somebody else has adopted it
            os.close(file)
            return 0
        try:
            new = sum(self._settle_lines(lines, path) for lines, _ in _batches(file, 0, whole=True))
            path.unlink(missing_ok=True)
        finally:
            os.close(file)
        self._journal("spool_adopted", file=path.name, new=new)
        return new

    def _settle_own(self, until: float) -> int:
        """Settle the whole lines that were added to the present file since the last time, or some of them."""
        path = self._spool.path
        if path != self._read_of:
            self._read, self._read_of = 0, path
        if self._spool.size <= self._read:
            return 0
        new = 0
        file = self._spool.descriptor()
        try:
            for lines, end in _batches(file, self._read, whole=False):
                new += self._settle_lines(lines, path)
                self._read = end
                if time.monotonic() >= until:
                    break
        finally:
            os.close(file)
        return new

    def _settle_rest(self, path: Path, until: float) -> tuple[int, bool]:
        """Settle what is left of a file that is no longer written, or some of it; remove it when that was all."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody has adopted it between rotation and now
            return 0, True
        if path != self._read_of:
            self._read, self._read_of = 0, path
        new = 0
        try:
            for lines, end in _batches(file, self._read, whole=True):
                new += self._settle_lines(lines, path)
                self._read = end
                if time.monotonic() >= until:
                    return new, False
        finally:
            os.close(file)
        path.unlink(missing_ok=True)
        return new, True

    def _settle_kept(self) -> int:
        lines = self._spool.kept()
        new = 0
        for start in range(0, len(lines), BATCH):
            some = lines[start : start + BATCH]
            new += self._settle_lines(some, self._spool.path)
            self._spool.forget_kept(some)
        return new

    def _settle_lines(self, lines: Sequence[bytes], path: Path) -> int:
        """Settle lines; what cannot be is put aside once the store has the rest: while it is away they come again."""
        rows: list[AttemptRow] = []
        torn: list[int] = []
        aside: list[tuple[bytes, dict[str, object]]] = []
        for line in lines:
            try:
                rows.append(read_row(line))
            except msgspec.ValidationError as error:  # whole, but of a version that this one does not understand
                aside.append((line + b"\n", {"file": path.name, "detail": str(error)}))
            except (msgspec.DecodeError, UnicodeDecodeError):
                torn.append(len(line))
        new = self._settle(rows, aside)
        self.torn += len(torn)
        for length in torn:
            self._journal("spool_line_torn", file=path.name, length=length)
        for line, facts in aside:
            self._put_aside(line, **facts)
        return new

    def _settle(self, rows: Sequence[AttemptRow], aside: list[tuple[bytes, dict[str, object]]]) -> int:
        """Settle attempts; of a refused batch each one alone; those refused again go to `aside`."""
        try:
            return self._store.settle(rows)
        except StoreUnavailable:
            raise
        except FirstError:
            new = 0
        for row in rows:
            try:
                new += self._store.settle([row])
            except StoreUnavailable:
                raise
            except FirstError as error:
                facts: dict[str, object] = {"request": row.request, "attempt": row.attempt}
                aside.append((row.record.encode() + b"\n", facts | {"detail": error.message}))
        return new

    def _put_aside(self, line: bytes, **facts: object) -> None:
        self.refused += 1
        self._journal("usage_refused", **facts)
        with (self._folder / _REFUSED).open("ab") as file:
            file.write(line)

    async def finish(self, thread: StoreThread, *, within_s: float = 5.0) -> None:
        """Settle what has been recorded and close the spool; what the store does not take in time stays in its file."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(within_s), contextlib.suppress(FirstError, OSError):
                await thread.call(self.sweep)
            self._spool.close()

    async def run(self, thread: StoreThread, *, adopt: bool = True) -> None:
        """Sweep once a second and adopt now and then, until cancelled; a store that is away is asked less often."""
        pause_s, away, until_adoption_s = SWEEP_EVERY_S, False, 0.0
        while True:
            try:
                if not self.idle:
                    await thread.call(lambda: self.sweep(budget_s=SWEEP_BUDGET_S))
                if adopt and until_adoption_s <= 0:
                    until_adoption_s = ADOPT_EVERY_S
                    await thread.call(self.adopt)
            except (FirstError, OSError) as error:
                if not away:
                    self._journal("settlement_waits", detail=str(error))
                away, pause_s = True, min(2 * pause_s, AWAY_MAX_S)
            else:
                if away:
                    self._journal("settlement_goes_on")
                away, pause_s = False, self.rest_s
            await anyio.sleep(pause_s)
            until_adoption_s -= pause_s


def _batches(file: int, start: int, *, whole: bool) -> Iterator[tuple[list[bytes], int]]:
    """Yield up to BATCH lines at a time with the offset behind them, from `start` on.

    A last line without its line feed is left for later, unless the file is `whole` and will not grow.
    """
    offset, rest = start, b""
    while chunk := os.pread(file, _CHUNK, offset + len(rest)):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for first in range(0, len(lines), BATCH):
            some = lines[first : first + BATCH]
            offset += sum(len(line) + 1 for line in some)
            yield [line for line in some if line], offset
    if whole and rest:
        yield [rest], offset + len(rest)
