# SPDX-License-Identifier: Apache-2.0
"""A canary down every path is in no log and no file, and another user of the machine reaches the public port alone."""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from installation import Installation, installation
from paced import ENGINE, EVERY_PATH, Stream, asks, beside, config, paced

from firstkit.apps.children import descendants

pytestmark = pytest.mark.timeout(180)

NOBODY = 65534
STRANGER = """\
import json, os, socket, sys
asked = json.load(sys.stdin)
reached = []
for path in asked["files"]:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        reached.append(f"read {path}")
    except OSError:
        pass
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        reached.append(f"write {path}")
    except OSError:
        pass
for path in asked["sockets"]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        probe = socket.socket(socket.AF_UNIX, kind)
        try:
            probe.connect(path)
            reached.append(f"connect {path}")
        except OSError:
            pass
        probe.close()
for port in asked["ports"]:
    for request in asked["requests"]:
        try:
            probe = socket.create_connection(("127.0.0.1", port), timeout=5)
            probe.sendall(request.encode())
            status = probe.recv(4096).split(b" ")[1:2]
            probe.close()
        except OSError:
            continue
        if status and status[0] not in (b"400", b"401", b"403"):
            reached.append(f"{request.split(chr(13))[0]} at {port}: {status[0].decode()}")
json.dump(reached, sys.stdout)
"""


@dataclass
class Canaries:
    """Secrets by what they are."""

    texts: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, what: str) -> str:
        return self.texts.setdefault(what, f"canary{secrets.token_hex(12)}")


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def running(canaries: Canaries) -> Generator[Installation]:
    """An installation in a folder that others may enter, so that it is its own permissions that keep them out."""
    folder = Path(tempfile.mkdtemp(prefix="first-"))
    folder.chmod(0o755)
    try:
        with beside("beside") as double:
            key = folder / "engine.key"
            key.touch(mode=0o600)
            key.write_text(canaries.new("key of an external engine"))
            loopback = [sys.executable, str(ENGINE), "--port", "{port}", "--key-file", "{key_file}", "--name", "{name}"]
            engine = {"kind": "command", "argv": loopback, "paths": EVERY_PATH, "guarded": ["/seen"]}
            deployments = {
                "unix": paced("unix", min=2, max=2),
                "loopback": {"model": "loopback", "cluster": "here", "engine": engine, "scaling": {"min": 1}},
                "cold": paced("cold", min=0, arguments=("--load-s", "1")),
                "broken": paced("broken", min=0, arguments=("--unless", "/")),
                "beside": double.deployment(key_file=str(key)),
            }
            gateway = {"body_limits": {"/v1/completions": "1kB"}, "hold_head": "200ms", "comment_every": "200ms"}
            with installation(folder, config=config(deployments=deployments, gateway=gateway)) as it:
                it.wait_hot("unix", "loopback", "beside")
                yield it
    finally:
        shutil.rmtree(folder)


def send_everything(running: Installation, canaries: Canaries) -> None:
    """Send canaries down every path, with every outcome."""
    prompt, answer = canaries.new("prompt"), canaries.new("answer")
    header, query = canaries.new("header"), canaries.new("query")
    text = f"{prompt} backwards={answer[::-1]}"
    seen = b""
    for model in ("unix", "loopback", "beside"):
        for path in EVERY_PATH:
            for stream in (False, True):
                for wish in ("tokens=2", "tokens=3 break=1", "status=500", "status=503", "status=400"):
                    body = {"model": model, "stream": stream, "max_tokens": 5, "user": prompt}
                    said = f"{text} {wish}"
                    body |= {"prompt": said} if path.endswith("/completions") and "chat" not in path else {}
                    body |= {"input": said} if path.endswith("/responses") else {}
                    body |= (
                        {"messages": [{"role": "user", "content": said}]} if "mess" in path or "chat" in path else {}
                    )
                    with contextlib.suppress(http.client.HTTPException, ConnectionError):
                        headers = {"cookie": header, "x-custom": header, "traceparent": header}
                        seen += running.request("POST", f"{path}?q={query}", body, headers=headers)[2]
    assert answer.encode() in seen
    cold = Stream(running, asks(text, model="cold", stream=True))
    refused = [
        ("POST", "/v1/chat/completions", asks(text, model="broken"), {}),
        ("POST", "/v1/chat/completions", asks(text, model="cold"), {"x-first-max-wait": "0"}),
        ("POST", "/v1/chat/completions", asks(text, model="nowhere"), {}),
        ("POST", "/v1/chat/completions", f'{{"model": "unix", "{prompt}'.encode(), {}),
        ("POST", "/v1/chat/completions", f'{{"model":"a","model":"b","x":"{prompt}"}}'.encode(), {}),
        ("POST", "/v1/chat/completions", asks(text, model="unix", priority=3), {}),
        ("POST", "/v1/completions", {"model": "unix", "prompt": prompt * 100}, {}),
        ("POST", "/v1/embeddings", {"model": "unix", "input": prompt}, {}),
        ("GET", f"/v1/nowhere/{canaries.new('path')}?q={query}", None, {"cookie": header}),
        ("POST", "/api/v1/keys", {"name": "x", prompt: prompt}, {"cookie": header}),
        ("POST", "/api/v1/diff", {"document": prompt}, {}),
        ("GET", f"/v1/models?q={query}", None, {"cookie": header}),
        ("GET", f"/api/v1/whoami?q={query}", None, {}),
        ("PUT", f"/control/v1/jobs/j-0/status?q={query}", {"x": prompt}, {}),
    ]
    for method, path, body, headers in refused:
        running.request(method, path, body, headers=headers)
    for key in (canaries.new("unknown key"), "fk-abcdefgh-" + canaries.new("key of the right shape")):
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/api/v1/keys")):
            running.request(method, path, asks(text, model="unix") if method == "POST" else None, key=key)
            running.request(method, path, headers={"x-api-key": key, "authorization": ""})
    cold.end()


def test_no_secret_is_in_any_file_log_or_command_line(running: Installation, canaries: Canaries) -> None:
    made = running.first("keys", "create", "second", "--json")
    canaries.texts["API key"] = running.key
    canaries.texts["second API key"] = json.loads(made.stdout)["key"]
    send_everything(running, canaries)
    for path in running.data.glob("clusters/here/j-*/control.key"):
        canaries.texts[f"control token of {path.parent.name}"] = path.read_text().strip()
    for path in running.data.glob("clusters/here/j-*/job.json"):
        for one in json.loads(path.read_text())["instances"]:
            if one["engine"]["key"]:
                canaries.texts["key of a loopback engine"] = one["engine"]["key"]
    assert "key of a loopback engine" in canaries.texts

    stream = Stream(running, asks(f"{canaries.new('prompt')} tokens=30 every=0.1", model="unix", stream=True))
    stream.wait_for(b"w0")
    os.kill(running.engine_pid(stream.headers["x-first-instance"]), signal.SIGKILL)
    stream.end()
    cut = Stream(running, asks(f"{canaries.new('prompt')} tokens=30 every=0.1", model="unix", stream=True))
    cut.wait_for(b"w0")
    running.process.send_signal(signal.SIGHUP)
    os.kill(running.part_pid("gateway"), signal.SIGKILL)
    cut.end()
    running.wait_answering()
    running.until(lambda: not list(running.data.glob("spool/*.spool")) or len(running.ready_instances("unix")) == 2)

    assert canaries.texts["API key"].encode() in (running.data / "api-key").read_bytes()  # so they would be found
    assert running.log("gateway").strip()
    found = [*in_files(running, canaries), *in_processes(running, canaries)]
    assert not found, "\n".join(sorted(found))


def belongs(path: Path, what: str, data: Path) -> bool:
    """Tell whether a file is the very place where a secret is kept."""
    name = path.relative_to(data).as_posix()
    if what == "API key":
        return name == "api-key"
    if what.startswith("control token"):
        return path.name == "control.key"
    if what in {"key of a loopback engine", "key of an external engine"}:
        # the gateway sends it, so it is in the routes, and those are in the store
        return name.startswith("first.db") or path.name == "job.json" or "/i-" in name
    return False


def in_files(running: Installation, canaries: Canaries) -> list[str]:
    """List where a canary lies that does not belong there."""
    found: list[str] = []
    for path in [*running.data.rglob("*"), running.output]:
        if not path.is_file():
            continue
        content = path.read_bytes()
        for what, text in canaries.texts.items():
            if text.encode() in content and not (path != running.output and belongs(path, what, running.data)):
                found.append(f"{what} in {path}")
    return found


def in_processes(running: Installation, canaries: Canaries) -> list[str]:
    """List which of our processes shows a canary in its command line or environment."""
    found: list[str] = []
    for pid in [running.process.pid, *descendants(running.process.pid)]:
        for kind in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                content = Path(f"/proc/{pid}/{kind}").read_bytes()
                found += [
                    f"{what} in {kind} of {pid}" for what, text in canaries.texts.items() if text.encode() in content
                ]
    return found


# ------------------------------------------------------------------------------------------------------ other users


def sockets_of(pids: list[int]) -> tuple[list[str], list[int]]:
    """List the paths of the Unix sockets and the ports of the TCP listeners that processes hold."""
    inodes: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = link.readlink().as_posix()
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    paths = [words[7] for words in unix if len(words) > 7 and words[6] in inodes]
    ports: list[int] = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and words[3] == "0A":
                ports.append(int(words[1].rpartition(":")[2], 16))
    return sorted(set(paths)), sorted(set(ports))


def test_another_user_of_the_machine_reaches_the_public_port_alone(running: Installation) -> None:
    if os.geteuid() != 0:
        pytest.skip("allowed: only root can become another user")
    running.until(lambda: len(running.ready_instances("unix")) == 2 and running.ready_instances("loopback"))
    pids = [running.process.pid, *descendants(running.process.pid)]
    paths, ports = sockets_of(pids)
    below = [str(path) for path in running.data.rglob("*")]
    assert running.port in ports
    assert len(ports) == 2, ports  # the other is the loopback engine's
    assert any(path.endswith("admin.sock") for path in paths)
    assert any(path.endswith("e.sock") for path in paths)
    chat = json.dumps(asks("tokens=1", model="unix"))
    post = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(chat)}\r\n\r\n{chat}"
    requests = [post, *(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n" for path in ("/v1/models", "/seen", "/api/v1/jobs"))]
    requests += ["GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"]
    asked = {
        "files": [str(running.data), *below],
        "sockets": [*paths, *(path for path in below if Path(path).is_socket())],
        "ports": ports,
        "requests": requests,
    }
    drop = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=-all",
        "/usr/bin/python3",
    ]
    done = subprocess.run(
        [*drop, "-I", "-c", STRANGER],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reached = [line for line in json.loads(done.stdout) if not line.endswith((": 404",))]
    assert not reached, "\n".join(reached)
    with socket.create_connection(("127.0.0.1", running.port), timeout=5):
        pass
