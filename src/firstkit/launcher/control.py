# SPDX-License-Identifier: Apache-2.0
"""The conversation with firstkit over HTTP: status goes out, the answer, held until there is news, is desired."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import Callable, NamedTuple, Optional, Protocol, Sequence

from .deadlines import happens, within
from .documents import ControlSpec
from .exchange import Answer, ExchangeFailed, Identity, exchange, parse_url

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
LEAST_ROUND_S = 0.5
"""A server that answers at once instead of holding is asked no more often than this, unless status changes."""
LATE_S = 10.0
"""How much later than promised a held answer may come."""


class Conversation(Protocol):
    """What control needs of the job."""

    def snapshot(self) -> bytes:
        """Give the status of this moment."""
        ...

    def version(self) -> int:
        """Give the version of desired that is being followed."""
        ...

    def heard(self, body: bytes) -> None:
        """Take an answer; empty if nothing is desired yet."""
        ...

    def fenced(self) -> None:
        """Learn that the job is not wanted any more (410)."""
        ...


class Outcome(NamedTuple):
    """How one round went."""

    answered: bool
    fenced: bool = False


class Control:
    """PUTs status for as long as the job lives: at once when it changes, and again when an answer came or failed to."""

    def __init__(
        self, spec: ControlSpec, job: str, run_dir: str, *, conversation: Conversation, note: Callable[[str], None]
    ) -> None:
        self._spec = spec
        self._target = f"/control/v1/jobs/{job}/status"
        self._run_dir = run_dir
        self._conversation = conversation
        self._note = note
        self._urls = list(spec.urls)
        self._identity: Optional[Identity] = None
        if spec.peer is not None:
            files = (os.path.join(run_dir, name or "") for name in (spec.ca_file, spec.cert_file, spec.key_file))
            self._identity = Identity(*files, peer=spec.peer)
        self._changed = asyncio.Event()
        self._ending = False
        self._at = 0
        self._trouble: Optional[str] = None

    def change(self) -> None:
        """Tell that the status is not what was sent last."""
        self._changed.set()

    def use(self, gateways: Sequence[str]) -> None:
        """Report to these gateways (host:port) from the next round on, if it is gateways that are reported to."""
        if self._identity is not None:
            self._urls = [f"https://{gateway}" for gateway in gateways]

    def hurry(self) -> None:
        """From now on ask for answers at once: they tell that the end of the job has been heard of."""
        self._ending = True
        self._changed.set()

    async def converse(self) -> None:
        """Go on until cancelled, or until the job is fenced."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            version = self._conversation.version()
            self._changed.clear()
            outcome = await self._round()
            if outcome is None:  # status changed meanwhile: send the new one
                continue
            if outcome.fenced:
                return
            if outcome.answered:
                failures = 0
                news = self._conversation.version() != version
                if not news:
                    await self._pause(LEAST_ROUND_S - (loop.time() - began))
                continue
            failures += 1
            self._at = (self._at + 1) % len(self._urls)
            if self._at == 0 or failures >= len(self._urls):
                rounds = min(failures // len(self._urls), 10)
                bound = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** max(rounds - 1, 0))
                await asyncio.sleep(LEAST_ROUND_S * random.random())  # noqa: S311  jitter
                await self._pause(bound * (0.5 + random.random() / 2))  # noqa: S311  jitter

    async def say_last(self, deadline_s: float) -> None:
        """Send the final status to whoever hears it first; give up after the deadline."""
        self._ending = True
        with contextlib.suppress(asyncio.TimeoutError):
            await within(deadline_s, self._say_to_any())

    async def _say_to_any(self) -> None:
        for _ in self._urls:
            if (await self._put()).answered:
                return
            self._at = (self._at + 1) % len(self._urls)

    async def _round(self) -> Optional[Outcome]:
        """Make one exchange, given up at once when the status changes; None if so."""
        putting = asyncio.ensure_future(self._put())
        changing = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({putting, changing}, return_when=asyncio.FIRST_COMPLETED)
            return putting.result() if putting.done() else None
        finally:
            for task in (putting, changing):
                task.cancel()
            await asyncio.wait({putting, changing})

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await happens(self._changed, seconds)

    async def _put(self) -> Outcome:
        url = self._urls[self._at % len(self._urls)]
        hold_s = 0.0 if self._ending or self._trouble is not None else self._spec.hold_s
        ca_file = self._spec.ca_file and os.path.join(self._run_dir, self._spec.ca_file)
        try:
            address, prefix = parse_url(url, ca_file)
            answer = await exchange(
                address._replace(identity=self._identity),
                "PUT",
                prefix + self._target,
                headers={
                    "Authorization": f"Bearer {read_token(os.path.join(self._run_dir, self._spec.token_file))}",
                    "Content-Type": "application/json",
                    "X-First-Desired-Version": str(self._conversation.version()),
                    "Prefer": f"wait={hold_s:g}",
                },
                body=self._conversation.snapshot(),
                deadline_s=hold_s + LATE_S,
            )
        except ExchangeFailed as failure:
            return self._failed(f"{url}: {failure}")
        return self._judge(url, answer)

    def _judge(self, url: str, answer: Answer) -> Outcome:
        if answer.status == 410:
            self._conversation.fenced()
            return Outcome(answered=True, fenced=True)
        if answer.status not in (200, 204):
            return self._failed(f"{url} answers {answer.status}")
        if self._trouble is not None:
            self._note("control: answered again")
            self._trouble = None
        self._conversation.heard(answer.body if answer.status == 200 else b"")
        return Outcome(answered=True)

    def _failed(self, trouble: str) -> Outcome:
        if trouble != self._trouble:
            self._note(f"control: {trouble}")
            self._trouble = trouble
        return Outcome(answered=False)


def read_token(path: str) -> str:
    """Read the job's token anew each time, so that it can be replaced; raise `ExchangeFailed` if it cannot be used."""
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(4096).strip()
    except (OSError, ValueError) as error:
        raise ExchangeFailed("the token file cannot be read") from error
    if not token.isprintable():
        raise ExchangeFailed("the token file holds no token")
    return token
