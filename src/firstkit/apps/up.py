# SPDX-License-Identifier: Apache-2.0
"""`first up`: gateway, api, controller and a local cluster in one process tree, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.identity.api_keys import digest, new_key
from firstkit.adapters.store import migrate_store, open_store
from firstkit.apps import demo
from firstkit.apps.children import Child, Part, become_subreaper, kill_descendants, reap_orphans
from firstkit.apps.listening import admin_socket, bind, doors_socket
from firstkit.apps.progress import Progress, ask, ready_text
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, load
from firstkit.core.errors import FirstError, SiteError
from firstkit.core.principal import Principal, Role
from firstkit.core.topology import Address, AddressKind

STOP_S = 60.0
LOOK_EVERY_S = 0.1
REAP_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What the command line says. Without `config` the demo is served with `engine`."""

    port: int | None = None
    data: Path = Path(".first")
    engine: str = "llamacpp"
    config: Path | None = None


def run_up(options: UpOptions) -> int:
    """Run everything in the foreground; returns the exit code (0 after Ctrl-C)."""
    data = _state_folder(options.data)
    progress = Progress()
    with _only_one(data):
        config = options.config or _write_demo(options.engine, data, progress)
        given = {} if options.port is None else {"gateway.listen": f"127.0.0.1:{options.port}"}
        loaded = load(config, data_dir=data, environ=read_environment(), engines=load_engines(), given=given)
        for warning in loaded.warnings:
            progress.say(f"warning: {warning}")
        key_file = _prepare_store(loaded, data)
        with contextlib.ExitStack() as sockets:
            listener = sockets.enter_context(_listening(bind(loaded.settings.gateway.listen)))
            admin = admin_socket(loaded.settings.gateway.admin, data)
            if admin is not None:
                sockets.enter_context(_listening(admin))
            doors = doors_socket(loaded.settings.gateway.doors)
            if doors is not None:
                sockets.enter_context(_listening(doors))
            up = _Up(loaded, data=data, config=config, listener=listener, admin=admin, doors=doors, key_file=key_file)
            return asyncio.run(up.run(progress))


class _Up:
    """One run."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        data: Path,
        config: Path,
        listener: socket.socket,
        admin: socket.socket | None,
        doors: socket.socket | None,
        key_file: Path,
    ) -> None:
        self._loaded = loaded
        self._data = data
        self._key_file = key_file
        self._listener = listener
        self._admin = admin
        self._doors = doors
        self._config = config
        self._stop = asyncio.Event()
        self._some_ended = asyncio.Event()
        self._hurry = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    async def run(self, progress: Progress) -> int:
        """Start all parts, say when models answer, wait for the end, stop in order."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on_hup)
        loop.add_signal_handler(signal.SIGUSR2, self._replace_gateway, progress)
        loop.add_signal_handler(signal.SIGCHLD, self._some_ended.set)
        logs = self._data / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        self._children = [Child(part, logs=logs, say=progress.say) for part in self._parts()]
        progress.say("starting gateway, api and controller")
        janitor = asyncio.create_task(self._reap(), name="reap")
        try:
            for child in self._children:
                await child.start()
            code = await self._watch(progress)
        finally:
            if self._replacing is not None:
                self._replacing.cancel()
                await asyncio.gather(self._replacing, return_exceptions=True)
            await self._end(progress)
            janitor.cancel()
            await asyncio.gather(janitor, return_exceptions=True)
            if left := kill_descendants():
                progress.say(f"{left} processes had to be killed")
            reap_orphans(set())
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # so that our own question does not wait for an answer
        progress.say("stopped")
        return code

    def _parts(self) -> list[Part]:
        common = ("--config", str(self._config), "--data", str(self._data))
        listen = self._listener.fileno()
        sockets, descriptors = ("--listen-fd", str(listen)), (listen,)
        if self._admin is not None:
            sockets += ("--admin-fd", str(self._admin.fileno()))
            descriptors += (self._admin.fileno(),)
        if self._doors is not None:
            sockets += ("--doors-fd", str(self._doors.fileno()))
            descriptors += (self._doors.fileno(),)
        return [
            Part(name="api", arguments=("api", *common)),
            Part(
                name="gateway",
                arguments=("gateway", *common, "--without-api", *sockets),
                descriptors=descriptors,
            ),
            Part(name="controller", arguments=("controller", *common, "--retire-on-stop")),
        ]

    def _asked_to_stop(self) -> None:
        """First time: drain and stop. Second time: at once."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _pass_on_hup(self) -> None:
        """Have settings, certificates and catalog read again."""
        for child in self._children:
            child.signal(signal.SIGHUP)

    def _replace_gateway(self, progress: Progress) -> None:
        """Put a new gateway process on the same sockets; the old one finishes what it has."""
        if self._stop.is_set() or (self._replacing is not None and not self._replacing.done()):
            return
        gateway = next(child for child in self._children if child.part.name == "gateway")

        async def replace() -> None:
            if await gateway.replace():
                progress.say("a new gateway has taken over; the old one ends with its last request")
            else:
                progress.say(f"the new gateway did not come up, so the old one stays (see {gateway.log})")

        self._replacing = asyncio.create_task(replace(), name="replace gateway")

    async def _reap(self) -> None:
        """Collect whoever has ended: told by the kernel, and now and then unasked, as one signal may tell of many."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._some_ended.wait(), REAP_EVERY_S)
            self._some_ended.clear()
            reap_orphans({pid for child in self._children for pid in child.pids})

    async def _watch(self, progress: Progress) -> int:
        """Tell how the models come up, then wait for the end; 1 when a part cannot be kept running."""
        waiting = asyncio.create_task(self._tell_when_ready(progress))
        stop = asyncio.create_task(self._stop.wait())
        failures = {asyncio.create_task(child.failed.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait({stop, *failures}, return_when=asyncio.FIRST_COMPLETED)
            for task in done & failures.keys():
                child = failures[task]
                progress.say(f"{child.part.name} cannot be kept running; the end of {child.log}:")
                for line in child.last_words():
                    progress.say(f"  {line}")
                return 1
            return 0
        finally:
            for task in (waiting, stop, *failures):
                task.cancel()
            await asyncio.gather(waiting, stop, *failures, return_exceptions=True)

    async def _tell_when_ready(self, progress: Progress) -> None:
        """Poll like a client until every model that is kept hot answers, or is held with a reason."""
        kept = [item.model for item in self._loaded.catalog.deployments.values() if item.scaling.min > 0]
        address = _reachable(self._listener, tls=self._loaded.settings.gateway.tls is not None)
        key = self._key_file.read_text().strip()
        while True:
            models = await asyncio.to_thread(ask, address, key)
            if models is not None:
                missing = [name for name in kept if name not in models or not models[name].settled]
                if not missing:
                    break
                shown = [models[name] for name in missing if name in models]
                if shown:
                    countdown = shown[0].countdown if len(shown) == 1 else ""
                    progress.update("; ".join(model.line for model in shown), countdown)
            await asyncio.sleep(LOOK_EVERY_S)
        for name in kept:
            if models[name].held:
                progress.say(models[name].line)
        names = kept or list(models)
        progress.ready(ready_text(address, key_file=self._key_file, model=names[0] if names else None))

    async def _end(self, progress: Progress) -> None:
        """Drain the gateway, retire the jobs, then the api, which launchers report to until the end."""
        progress.say("stopping: requests in flight may finish (Ctrl-C again to stop at once)")
        by_name = {child.part.name: child for child in self._children}
        hurry = asyncio.create_task(self._hurry.wait())
        for name in ("gateway", "controller", "api"):
            stop = asyncio.create_task(by_name[name].stop(within_s=STOP_S))
            await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                by_name[name].signal(signal.SIGINT)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(stop), 5.0 if name != "controller" else 25.0)
                if not stop.done():
                    by_name[name].signal(signal.SIGKILL)
            await stop
        hurry.cancel()
        await asyncio.gather(hurry, return_exceptions=True)


# ---------------------------------------------------------------------------------------------------------- preparing
def _state_folder(path: Path) -> Path:
    """Make the state folder, private; one sentence when it cannot be."""
    data = path.absolute()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data.stat()
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            raise SiteError(
                f"The state folder {data} is not yours alone: others could put their files in the place of yours; "
                "choose another: make up DATA=/path",
                code="state_folder_unsafe",
            )
        (data / "run").mkdir(mode=0o700, exist_ok=True)
        probe = data / "run" / ".write"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise SiteError(
            f"The state folder {data} cannot be written ({error.strerror}); choose another: make up DATA=/path",
            code="state_folder_unwritable",
        ) from error
    return data


@contextlib.contextmanager
def _only_one(data: Path):  # noqa: ANN202 — a context manager
    """Keep a second `first up` off the same state folder."""
    with (data / "run" / "up.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SiteError(
                f"Another `first up` runs on {data}; stop it, or choose another folder: make up DATA=/path",
                code="already_running",
            ) from error
        yield


@contextlib.contextmanager
def _listening(listener: socket.socket):  # noqa: ANN202 — a context manager
    """Close a listening socket at the end, and remove the name of one that has a name."""
    try:
        yield listener
    finally:
        if listener.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                Path(listener.getsockname()).unlink()
        listener.close()


def _write_demo(engine: str, data: Path, progress: Progress) -> Path:
    """Write the demo's configuration for this engine, converting weights where the engine needs it."""
    from firstkit.adapters.demo.weights import chat_gguf, chat_safetensors

    if engine == "vllm":
        venv = Path(sys.prefix).parent / ".venv-vllm"
        python = venv / "bin" / "python"
        if not python.exists():
            raise SiteError(f"vLLM is not installed in {venv}; run `make vllm-env` first.", code="vllm_missing")
        progress.update("converting the demo's weights for vLLM, once")
        what = demo.vllm(chat_safetensors(data / "weights", python=python), venv=venv)
    else:
        what = demo.llamacpp(chat_gguf())
    path = data / "first.yaml"
    text = demo.render(what, data=data)
    if not path.exists() or path.read_text() != text:
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(path)
    return path


def key_name(data: Path, host: str | None = None) -> str:
    """Name the key that `first up` makes: another one for each host and state folder, which may share a store."""
    place = f"{host or socket.gethostname()}:{data}"
    return f"up-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def _prepare_store(loaded: Loaded, data: Path) -> Path:
    """Make or update the store, and the API key of the person at this machine."""
    settings = loaded.settings
    migrate_store(settings.store, folder=data)
    key_file = data / "api-key"
    store = open_store(settings.store, folder=data)
    try:
        live = {row.digest for row in store.keys()}  # noqa: SIM118 — a method of the store
        if key_file.exists() and digest(key_file.read_text().strip()) in live:
            return key_file
        made = new_key()
        name = key_name(data)
        principal = Principal(subject=f"key:{made.id}", name=name, roles=frozenset({Role.USER, Role.OPERATOR}))
        store.key_revoke(name)
        store.key_add(name=name, digest=made.digest, prefix=made.prefix, principal=principal, expires_at=None)
        temporary = data / ".api-key.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(made.key + "\n")
        temporary.replace(key_file)
    finally:
        store.close()
    return key_file


def _reachable(listener: socket.socket, *, tls: bool) -> Address:
    """Say where this machine reaches the listener."""
    if listener.family == socket.AF_UNIX:
        return Address(kind=AddressKind.UNIX, path=str(listener.getsockname()))
    host, port = str(listener.getsockname()[0]), int(listener.getsockname()[1])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 — turned into loopback here
    return Address(kind=AddressKind.TLS if tls else AddressKind.TCP, host=host, port=port)


__all__ = ["FirstError", "UpOptions", "run_up"]
