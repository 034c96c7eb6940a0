# SPDX-License-Identifier: Apache-2.0
"""Request bodies that wait: in memory up to a common bound, then in unlinked files, then refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from mmap import ACCESS_READ, mmap
from typing import Protocol

from firstkit.core.errors import FirstError, Limited, SiteError
from firstkit.dataplane.peek import Buffer

READ_BYTES = 256 * 1024
"""How much of a spilled body is read from its file at a time."""

Splice = tuple[int, int, bytes]
"""Replace the body's bytes from start to end by others."""


class Elsewhere(Protocol):
    """Runs blocking work in a thread and calls back on the loop with the result or the exception."""

    def __call__(self, work: Callable[[], object], then: Callable[[object], None], /) -> None: ...


class BodyAccount:
    """What all bodies that wait take together; every body takes and gives back here, nowhere else."""

    def __init__(self, *, memory_limit: int, disk_limit: int, folder: str, elsewhere: Elsewhere) -> None:
        self.memory_limit = memory_limit
        self.disk_limit = disk_limit
        self.folder = folder
        self.elsewhere = elsewhere
        self.memory = 0
        self.disk = 0


class Body:
    """One request's body while it arrives and until the engine has begun to answer.

    `add` says whether the sender must pause until `ready` is called; errors that come up meanwhile are passed to it.
    """

    __slots__ = (
        "_account",
        "_charged",
        "_data",
        "_file",
        "_pending",
        "_pieces",
        "_released",
        "_spilled",
        "_using",
        "_writing",
        "size",
        "spilled",
    )

    def __init__(self, account: BodyAccount) -> None:
        self._account = account
        self._pieces: list[bytes] = []
        self._pending: list[bytes] = []
        self._data: bytes | None = None
        self._charged = 0
        self._spilled = 0
        self._file = -1
        self._using = 0
        self._writing = False
        self._released = False
        self.size = 0
        self.spilled = False
        """The body lies in a file, or is on its way there."""

    def add(self, piece: bytes, ready: Callable[[FirstError | None], None]) -> bool:
        """Take a piece; True when the sender has to wait for `ready`. Raises Limited when there is no room at all."""
        account, size = self._account, len(piece)
        self.size += size
        if not self.spilled and account.memory + size <= account.memory_limit:
            account.memory += size
            self._charged += size
            self._pieces.append(piece)
            return False
        moved = size if self.spilled else size + self._charged
        if not account.folder or account.disk + moved > account.disk_limit:
            raise _full()
        account.disk += moved
        self._spilled += moved
        if not self.spilled:
            self.spilled = True
            self._pending = self._pieces
            self._pieces = []
        self._pending.append(piece)
        if not self._writing:
            self._write_out(ready)
        return True

    def take(self, whole: bytes) -> bool:
        """Take a whole body at once, if there is memory for it; False, and nothing done, when there is not."""
        account, size = self._account, len(whole)
        if account.memory + size > account.memory_limit:
            return False
        account.memory += size
        self.size = self._charged = size
        self._data = whole
        return True

    def complete(self) -> bool:
        """Tell whether everything taken is in its place (False: `ready` is still to be called)."""
        return not self._writing

    def examine(self, work: Callable[[Buffer], object], then: Callable[[object], None]) -> None:
        """Have the whole body looked at: at once when it is in memory, in a thread when it was spilled.

        `then` gets the result or the exception, unless the body has been released meanwhile.
        """
        if self._file < 0:
            try:
                result = work(self.buffer())
            except FirstError as error:
                result = error
            then(result)
            return
        mapped = mmap(self._file, 0, access=ACCESS_READ)

        def done(result: object) -> None:
            mapped.close()
            then(result)

        self._elsewhere(lambda: work(mapped), done, at_release=mapped.close)

    def fetch(self, start: int, end: int, then: Callable[[object], None]) -> None:
        """Read part of a spilled body's file in a thread; `then` gets the bytes or the exception."""
        file = self._file
        self._elsewhere(lambda: os.pread(file, end - start, start), then)

    def buffer(self) -> bytes:
        """Return the whole body of one that is in memory."""
        if self._data is None:
            pieces = self._pieces
            self._data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = [self._data]
        return self._data

    def segments(self, splices: Sequence[Splice]) -> Iterator[bytes | tuple[int, int]]:
        """Yield what to send: bytes, or ranges of the file to be read; splices are in order and do not overlap."""
        at = 0
        for start, end, replacement in splices:
            yield from self._range(at, start)
            yield replacement
            at = end
        yield from self._range(at, self.size)

    def release(self) -> None:
        """Give everything back: the engine has begun to answer, or nobody will. Again: does nothing."""
        if self._released:
            return
        self._released = True
        self._account.memory -= self._charged
        self._charged = 0
        self._pieces = []
        self._data = None
        self._close_unless_used()

    def _elsewhere(
        self,
        work: Callable[[], object],
        then: Callable[[object], None],
        *,
        at_release: Callable[[], None] = lambda: None,
    ) -> None:
        self._using += 1

        def done(result: object) -> None:
            self._using -= 1
            if self._released:
                at_release()
                self._close_unless_used()
            else:
                then(result)

        self._account.elsewhere(work, done)

    def _range(self, start: int, end: int) -> Iterator[bytes | tuple[int, int]]:
        if start >= end:
            return
        if self._file < 0:
            data = self.buffer()
            yield data if start == 0 and end == len(data) else data[start:end]
            return
        for at in range(start, end, READ_BYTES):
            yield at, min(end, at + READ_BYTES)

    def _write_out(self, ready: Callable[[FirstError | None], None]) -> None:
        """Write what is pending in a thread; what arrives meanwhile is written afterwards."""
        self._writing = True
        pieces, self._pending = self._pending, []
        file, folder = self._file, self._account.folder

        def work() -> int:
            opened = file if file >= 0 else os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                for piece in pieces:
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(opened, view) :]
            except BaseException:
                if file < 0:
                    os.close(opened)
                raise
            return opened

        def done(result: object) -> None:
            self._writing = False
            self._account.memory -= self._charged
            self._charged = 0
            if isinstance(result, int):
                self._file = result
            if self._released:
                self._close_unless_used()
                return
            if isinstance(result, BaseException):
                ready(_not_written(result))
            elif self._pending:
                self._write_out(ready)
            else:
                ready(None)

        self._account.elsewhere(work, done)

    def _close_unless_used(self) -> None:
        if self._writing or self._using:
            return
        self._account.disk -= self._spilled
        self._spilled = 0
        self._pending = []
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _full() -> Limited:
    return Limited(
        "The gateway holds as many request bodies as it may. Try again in a few seconds.",
        code="body_memory_full",
        retry_after_s=2.0,
    )


def _not_written(error: BaseException) -> FirstError:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _full()
    return SiteError("The gateway could not keep the request's body.", code="body_not_kept", retry_after_s=5.0)
