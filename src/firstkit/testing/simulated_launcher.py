# SPDX-License-Identifier: Apache-2.0
"""A launcher without processes: reads job.json, claims its folder, reports, obeys desired.json, ends as told."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio

BEAT_S = 10.0
MARGIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManner:
    """How an engine behaves. Seconds count from its start; None is never.

    `setup` not empty: the job never gets as far as the launcher, with this as the output of its setup lines.
    `mute`: the launcher runs but says nothing. `stop_s`: how long the engine takes to stop.
    """

    load_s: float | None = 5.0
    crash_s: float | None = None
    crash_reason: str = "ENGINE_EXIT"
    crash_tail: tuple[str, ...] = ("Traceback", "RuntimeError: it broke")
    mute: bool = False
    setup: str = ""
    stop_s: float = 0.5


@dataclass(slots=True)
class _Engine:
    instance: str
    manner: EngineManner
    state: str = "LOADING"
    reason: str | None = None
    since: float = 0.0
    stop_at: float | None = None
    tail: tuple[str, ...] = ()


@dataclass(slots=True)
class SimulatedLauncher:
    """One job's launcher. `files` is the cluster's file system; `report` carries a status over HTTP."""

    job: dict[str, Any]
    run_dir: str
    scheduler_id: str
    files: MutableMapping[str, bytes]
    manner: Callable[[str], EngineManner]
    now: Callable[[], float]
    report: Callable[[str, int, bytes], bool]
    node: str = ""
    poke: anyio.Event = field(default_factory=anyio.Event)
    engines: list[_Engine] = field(default_factory=list["_Engine"])
    _seq: int = 0
    _version: int = 0
    _began: float = 0.0
    _end: tuple[str, str] | None = None
    _told: object = None
    _contact: float = 0.0
    _desired: bytes | None = None

    def terminate(self) -> None:
        """Deliver TERM."""
        if self._end is None:
            self._begin_end("CANCELLED", "TERM from outside")
        self.poke.set()

    async def run(self) -> int:
        """Live until every engine has ended; return the exit code."""
        claim = f"{self.run_dir}/claim"
        if claim in self.files:
            return 1
        self.files[claim] = self.scheduler_id.encode()
        self._began = self._contact = self.now()
        for item in self.job["instances"]:
            manner = self.manner(item["instance"])
            self.engines.append(_Engine(item["instance"], manner, since=self._began))
        next_beat = self._began
        while True:
            self.poke = anyio.Event()
            self._obey()
            self._advance()
            if all(engine.state == "ENDED" for engine in self.engines):
                break
            changed = [(one.state, one.reason) for one in self.engines]
            if changed != self._told or self.now() >= next_beat:
                self._told, next_beat = changed, self.now() + BEAT_S
                self._tell("RUNNING" if self._end is None else "ENDING")
            with anyio.move_on_after(max(0.001, min(self._next_s(), next_beat - self.now()))):
                await self.poke.wait()
        last = self.engines[0]
        reason, detail = self._end or (last.reason or "ENGINE_EXIT", "the engine ended by itself with exit code 1")
        self._tell("ENDED", reason=reason, detail=detail)
        return 0 if reason in {"SCALED_IN", "CANCELLED", "WALLTIME", "SUPERSEDED"} else 1

    def _next_s(self) -> float:
        """Say when something changes by itself."""
        now = self.now()
        moments = [now + 3600.0]
        for engine in self.engines:
            if engine.state == "LOADING" and engine.manner.load_s is not None:
                moments.append(self._began + engine.manner.load_s)
            if engine.manner.crash_s is not None:
                moments.append(self._began + engine.manner.crash_s)
            if engine.stop_at is not None:
                moments.append(engine.stop_at)
        if self.job.get("walltime_s") is not None and self._end is None:
            moments.append(self._began + self.job["walltime_s"] - self._margin_s())
        if self.job.get("fence_s") is not None and self._end is None:
            moments.append(self._contact + self.job["fence_s"])
        return min(moments) - now

    def _margin_s(self) -> float:
        return float(self.job.get("margin_s", MARGIN_S))

    def _obey(self) -> None:
        """Do what desired.json says, if it is newer."""
        data = self.files.get(f"{self.run_dir}/desired.json")
        if data != self._desired:
            self._desired, self._contact = data, self.now()
        desired: dict[str, Any] = json.loads(data) if data else {"version": 0}
        if desired["version"] <= self._version:
            return
        self._version = desired["version"]
        if desired.get("stop_job"):
            self._begin_end("SCALED_IN", "the job is not wanted any more")
            return
        for engine in self.engines:
            want = desired["instances"].get(engine.instance)
            if want and want["want"] == "drain" and engine.state in {"LOADING", "READY"}:
                engine.state, engine.reason = "DRAINING", "SCALED_IN"
                if want["within_s"] is not None:
                    engine.stop_at = self.now() + want["within_s"]

    def _begin_end(self, reason: str, detail: str) -> None:
        if self._end is not None:
            return
        self._end = (reason, detail)
        for engine in self.engines:
            if engine.state != "ENDED":
                engine.state, engine.reason = "DRAINING", engine.reason or reason
                engine.stop_at = self.now() + engine.manner.stop_s

    def _advance(self) -> None:
        now = self.now()
        walltime_s = self.job.get("walltime_s")
        if walltime_s is not None and now >= self._began + walltime_s - self._margin_s():
            self._begin_end("WALLTIME", "walltime is nearly over")
        fence_s = self.job.get("fence_s")
        if fence_s is not None and now - self._contact >= fence_s:
            self._begin_end("UNSUPERVISED", "neither control nor desired.json was heard of")
        for engine in self.engines:
            manner = engine.manner
            if engine.state == "ENDED":
                continue
            if manner.crash_s is not None and now >= self._began + manner.crash_s:
                engine.state, engine.reason, engine.tail = "ENDED", manner.crash_reason, manner.crash_tail
            elif engine.stop_at is not None and now >= engine.stop_at:
                engine.state = "ENDED"
            elif engine.state == "LOADING" and manner.load_s is not None and now >= self._began + manner.load_s:
                engine.state = "READY"

    def _tell(self, state: str, *, reason: str | None = None, detail: str | None = None) -> None:
        """Write status.json, and say the same over HTTP."""
        if any(engine.manner.mute for engine in self.engines):
            return
        self._seq += 1
        uptime_s = self.now() - self._began
        walltime_s = self.job.get("walltime_s")
        status = {
            "schema": 1,
            "job": self.job["job"],
            "seq": self._seq,
            "uptime_s": round(uptime_s, 3),
            "scheduler_id": "",
            "node": self.node,
            "state": state,
            "reason": reason or (self._end[0] if self._end else None),
            "detail": detail,
            "time_left_s": None if walltime_s is None else round(walltime_s - uptime_s, 3),
            "instances": [self._describe(engine) for engine in self.engines],
        }
        data = json.dumps(status).encode()
        self.files[f"{self.run_dir}/status.json"] = data
        if self.job.get("control") is not None and self.report(self.job["job"], self._seq, data):
            self._contact = self.now()

    def _describe(self, engine: _Engine) -> dict[str, Any]:
        serving = engine.state in {"READY", "DRAINING"}
        ended = engine.state == "ENDED"
        return {
            "instance": engine.instance,
            "state": engine.state,
            "reason": engine.reason,
            "detail": "exit code 1" if ended and engine.tail else None,
            "progress": {"fraction": None, "text": "loading" if engine.state == "LOADING" else ""},
            "load_s": engine.manner.load_s if serving else None,
            "address": {"kind": "unix", "path": f"{self.run_dir}/{engine.instance}/e.sock"} if serving else None,
            "exit": {"code": 1, "log_tail": list(engine.tail)} if ended else None,
        }
