# SPDX-License-Identifier: Apache-2.0
"""API keys: how one is made, and who is behind one.

A key is `fk-` + 8 characters that name it + `-` + 40 random ones (200 bits). So much chance cannot be guessed, which is
why the store keeps a plain SHA-256 of the whole: slow hashes are for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import anyio

from firstkit.core.errors import FirstError
from firstkit.core.ids import encode
from firstkit.core.principal import Principal
from firstkit.ports.store import KeyRow, StoreUnavailable

KEY = re.compile(r"fk-[0-9a-z]{8}-[0-9a-z]{40}")
UNKNOWN_FOR_S = 5.0
UNKNOWN_KEPT = 10_000
ASK_EVERY_S = 0.05
"""Keys that nobody knows make the store be asked at most 20 times a second, however many come."""
ASK_DEADLINE_S = 5.0
TOLD_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made. `key` is shown to its owner once and kept nowhere; `prefix` is what people recognise it by."""

    id: str
    key: str
    prefix: str
    digest: bytes

    def __repr__(self) -> str:
        return f"NewKey({self.prefix}…)"


def new_key(random: Callable[[int], bytes] = secrets.token_bytes) -> NewKey:
    """Make a key."""
    id_ = encode(random(5), 8)
    key = f"fk-{id_}-{encode(random(25), 40)}"
    return NewKey(id=id_, key=key, prefix=f"fk-{id_}", digest=digest(key))


def digest(credential: str) -> bytes:
    """Return what a credential is known by."""
    return hashlib.sha256(credential.encode(errors="replace")).digest()


class ApiKeyIdentity:
    """Implements `Identity` for one gateway, on its event loop.

    `load` reads all living keys from the store (in its thread). The gateway's feed calls `take` whenever they have
    changed, which is how a revoked key stops within a second; `resolve` is for a key made since.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Awaitable[Sequence[KeyRow]]],
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._load = load
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._known: dict[bytes, tuple[str, Principal]] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._used: set[str] = set()
        self._told_at = float("-inf")
        self._asking = anyio.Lock()
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._failed: FirstError | None = None

    def take(self, rows: Iterable[KeyRow]) -> None:
        """Know these keys and no others from now on."""
        self._known = {row.digest: (row.id, _principal(row)) for row in rows if row.revoked_at is None}

    def lookup(self, digest: bytes) -> Principal | None:
        """Answer from memory; None when unknown or expired."""
        found = self._known.get(digest)
        if found is None:
            return None
        key, principal = found
        if principal.expires_at is not None and principal.expires_at <= self._wall_s():
            return None
        self._used.add(key)
        return principal

    async def resolve(self, credential: str) -> Principal | None:
        """Ask the store about a credential that `lookup` does not know; None when it is no living key.

        Raises the store's error when it cannot say: a key that may be good is not called bad.
        """
        if not KEY.fullmatch(credential):
            return None
        known_by = digest(credential)
        principal = self.lookup(known_by)
        if principal is not None or self._surely_unknown(known_by):
            return principal
        try:
            with anyio.fail_after(ASK_DEADLINE_S):
                await self._ask(since=self._monotonic_s())
        except TimeoutError:
            raise StoreUnavailable("the store did not say in time whether that API key is good") from None
        principal = self.lookup(known_by)
        if principal is None:
            self._note_unknown(known_by)
        return principal

    def used(self) -> list[str]:
        """Return which keys were used since the last time, at most once a minute; [] in between."""
        now = self._monotonic_s()
        if not self._used or now - self._told_at < TOLD_EVERY_S:
            return []
        self._told_at = now
        used, self._used = self._used, set()
        return sorted(used)

    async def _ask(self, *, since: float) -> None:
        """Have the keys read anew at a moment not before `since`; one reading serves all who wait."""
        async with self._asking:
            if self._answered_at >= since:
                if self._failed is not None:
                    raise self._failed
                return
            await anyio.sleep(max(0.0, self._asked_at + ASK_EVERY_S - self._monotonic_s()))
            self._asked_at = asked_at = self._monotonic_s()
            try:
                self.take(await self._load())
                self._failed = None
            except FirstError as error:
                self._failed = error
            # Not reached when this caller left meanwhile: then nothing was learnt, and the next one asks again.
            self._answered_at = asked_at
            if self._failed is not None:
                raise self._failed

    def _surely_unknown(self, known_by: bytes) -> bool:
        until = self._unknown.get(known_by)
        return until is not None and self._monotonic_s() < until

    def _note_unknown(self, known_by: bytes) -> None:
        self._unknown[known_by] = self._monotonic_s() + UNKNOWN_FOR_S
        self._unknown.move_to_end(known_by)
        while len(self._unknown) > UNKNOWN_KEPT:
            self._unknown.popitem(last=False)


def _principal(row: KeyRow) -> Principal:
    ends = [moment for moment in (row.expires_at, row.principal.expires_at) if moment is not None]
    return replace(row.principal, expires_at=min(ends)) if ends else row.principal
