# SPDX-License-Identifier: Apache-2.0
"""Runs one real engine as an adapter's LaunchSpec says, under the real launcher, for contract tests of adapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from firstkit.adapters import launcher_zip
from firstkit.core import control
from firstkit.core.catalog import Deployment
from firstkit.ports.engine import Engine
from firstkit.services.submission import engine_process
from firstkit.wire.control import JsonDocuments

INSTANCE = "i-contract"
KEY = "engine-key-of-the-contract-tests"
POLL_S = 0.02


class EngineRun:
    """One instance of a deployment, alone in its job; status is read from and desired is not written to files.

    `with EngineRun(adapter, deployment, folder) as run:` starts it and, at the end, ends it with all it has started.
    The folder must be empty, and better short: an engine's socket lies in it.
    """

    def __init__(self, adapter: Engine, deployment: Deployment, folder: Path, *, checked: bool = True) -> None:
        mistakes = adapter.check(deployment) if checked else []
        if mistakes:
            raise ValueError(f"the deployment has mistakes: {mistakes}")
        self.adapter = adapter
        self.deployment = deployment
        self.folder = folder
        self.spec = adapter.launch(deployment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Put the files where the controller would, and start the launcher."""
        place = self.folder / INSTANCE
        place.mkdir(mode=0o700, parents=True)
        for name, data in (self.spec.put or {}).items():
            (place / name).write_bytes(data)
        document = control.JobDocument(
            job="j-contract",
            installation="contract",
            instances=(
                control.JobInstance(instance=INSTANCE, engine=engine_process(self.deployment, self.spec, key=KEY)),
            ),
        )
        (self.folder / "job.json").write_bytes(JsonDocuments().write_job(document))
        launcher = launcher_zip.build()
        (self.folder / launcher.name).write_bytes(launcher.data)
        self._process = subprocess.Popen(
            [sys.executable, launcher.name, "job.json"],
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    # ------------------------------------------------------------------------------------------------- life cycle

    def wait_for(self, state: str, *, deadline_s: float = 120.0) -> dict[str, Any]:
        """Wait for a state of the instance and give its part of the status; TimeoutError tells what it was instead."""
        deadline = time.monotonic() + deadline_s
        while True:
            found = self.status()
            if found.get("state") == state:
                return found
            if found.get("state") == "ENDED" or time.monotonic() > deadline:
                raise TimeoutError(f"not {state} but {found}; its log ends: {self.log()[-1500:]}")
            time.sleep(POLL_S)

    def status(self) -> dict[str, Any]:
        """Give the instance's part of the last status; {} before there is one."""
        try:
            document = json.loads((self.folder / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        instances: list[dict[str, Any]] = document["instances"]
        return instances[0] if instances else {}

    def stop(self) -> None:
        """Ask the launcher to end, as a scheduler does, and go on; `wait` waits."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, *, deadline_s: float = 60.0) -> dict[str, Any]:
        """Wait until the launcher and all it started are gone; give the instance's exit report."""
        if self._process is None:
            raise RuntimeError("it was never started")
        self._process.wait(deadline_s)
        return json.loads((self.folder / INSTANCE / "exit.json").read_bytes())

    def end(self) -> None:
        """End it, by force if asking does not help."""
        if self._process is None:
            return
        self.stop()
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # ----------------------------------------------------------------------------------------------------- talking

    def address(self) -> dict[str, Any]:
        """Give the address that the launcher reports."""
        return self.status()["address"]

    def client(self, *, key: str | None = KEY, timeout_s: float = 60.0) -> httpx.Client:
        """Make a client of the engine alone: on its socket, or on its port with its key.

        Each request has a connection of its own: llama.cpp closes one after a stream without having said so.
        """
        address = self.address()
        once = httpx.Limits(max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {key}"} if key and address["kind"] == "tcp" else {}
        if address["kind"] == "unix":
            transport, base = httpx.HTTPTransport(uds=address["path"], limits=once), "http://engine"
        else:
            transport, base = httpx.HTTPTransport(limits=once), f"http://{address['host']}:{address['port']}"
        return httpx.Client(transport=transport, base_url=base, headers=headers, timeout=timeout_s, trust_env=False)

    def log(self) -> str:
        """Give what the engine has logged so far."""
        try:
            return (self.folder / INSTANCE / "engine.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def reports(self) -> Iterator[Path]:
        """List every file in which something of a request could have been left, weights and programs of ours aside."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.suffix not in {".pyz", ".py", ".pyc"}:
                yield path
