# SPDX-License-Identifier: Apache-2.0
"""Clusters whose instances are reached over the launcher's door, which the gateway dials or which dials the gateway."""

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import ssl
from collections.abc import Generator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from installation import Installation, free_port, installation
from paced import Stream, asks, config, engine_state, local_cluster, paced

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=["direct", "reverse"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    port = free_port()
    if request.param == "direct":
        link = {"kind": "direct", "ports": f"{port}-{port + 3}", "address": "127.0.0.1"}
        cluster, gateway = local_cluster(link=link), {}
    else:  # and jobs report by the same way, by no other
        where = f"127.0.0.1:{port}"
        cluster, gateway = local_cluster(link={"kind": "reverse"}, gateways=[where], control="http"), {"doors": where}
    text = config(deployments={"a": paced("a")}, clusters={"here": cluster}, gateway=gateway)
    with installation(tmp_path_factory.mktemp(request.param), config=text) as it:
        it.wait_hot("a")
        yield it


DIRECT = pytest.mark.parametrize("running", ["direct"], indirect=True)
REVERSE = pytest.mark.parametrize("running", ["reverse"], indirect=True)


def job_folder(running: Installation) -> Path:
    """Find the folder of the job that runs."""
    (job,) = running.until(lambda: len(found := running.jobs()) == 1 and running.ready_instances("a") and found)
    return Path(job["run_dir"])


def door(running: Installation) -> tuple[str, int]:
    """Find where the instance's door listens, from the launcher's own status."""
    address = json.loads((job_folder(running) / "status.json").read_text())["instances"][0]["address"]
    assert address["kind"] == "tls"
    return address["host"], address["port"]


def tried(where: tuple[str, int], context: ssl.SSLContext | None) -> bytes:
    """Send a request to the door as somebody else, and return what comes back."""
    request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    with contextlib.suppress(OSError), socket.create_connection(where, timeout=30) as plain:
        if context is None:
            plain.sendall(request)
            return plain.recv(4096)
        with context.wrap_socket(plain, server_hostname="x") as wrapped:
            wrapped.sendall(request)
            return wrapped.recv(4096)
    return b""


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def self_made(folder: Path) -> tuple[Path, Path]:
    """Make a certificate in the gateway's name that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway.firstkit")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.firstkit")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "own.crt", folder / "own.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret


def test_answers_come_through_the_door_streamed_and_not(running: Installation) -> None:
    status, headers, body = running.request("POST", "/v1/chat/completions", asks("tokens=2", model="a"))
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == "w0 w1 "
    assert headers["x-first-cluster"] == "here"
    Stream(running, asks("tokens=20 every=0.01", model="a", stream=True)).assert_whole(20)


def test_a_long_prompt_and_many_streams_come_through_the_door(running: Installation) -> None:
    body = asks("x" * 500_000 + " tokens=50 every=0.01", model="a", stream=True)
    streams = [Stream(running, body) for _ in range(10)]
    for stream in streams:
        stream.assert_whole(50)


@DIRECT
def test_a_stranger_is_not_let_in_by_the_door(running: Installation, tmp_path: Path) -> None:
    where = door(running)
    assert b"HTTP/1.1 200" not in tried(where, None)
    assert tried(where, trusting_anybody()) == b""
    own = trusting_anybody()
    own.load_cert_chain(*self_made(tmp_path))
    assert tried(where, own) == b""
    assert running.request("POST", "/v1/chat/completions", asks("tokens=1", model="a"))[0] == 200


@DIRECT
def test_not_even_the_job_s_own_certificate_opens_the_door(running: Installation) -> None:
    folder = job_folder(running)
    context = trusting_anybody()
    context.load_cert_chain(folder / "door.crt", folder / "door.key")
    assert tried(door(running), context) == b""


def test_a_client_that_leaves_frees_its_place_behind_the_door(running: Installation) -> None:
    def in_flight() -> int:
        return sum(one["in_flight"] for one in running.instances())

    body = json.dumps(asks("tokens=1000 every=0.05", model="a", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(head.encode() + body)
        came = b""
        while b"w0 " not in came:
            came += client.recv(4096)
        running.until(lambda: in_flight() == 1)
    running.until(lambda: in_flight() == 0)
    (instance,) = running.ready_instances("a")
    running.until(lambda: engine_state(running, instance)["running"] == 0)
    assert engine_state(running, instance)["cut_off"] == 1


def test_a_killed_engine_behind_the_door_ends_its_stream_with_an_error_event(running: Installation) -> None:
    stream = Stream(running, asks("tokens=100 every=0.1", model="a", stream=True))
    stream.wait_for(b"w0 ")
    os.kill(running.engine_pid(stream.headers["x-first-instance"]), signal.SIGKILL)
    stream.assert_cut_with_an_error()
    status, headers, _ = running.request("POST", "/v1/chat/completions", asks("tokens=1", model="a"))
    assert status == 200
    assert headers["x-first-instance"] != stream.headers["x-first-instance"]


@REVERSE
def test_nothing_of_a_job_listens_and_its_reports_come_in_at_the_port_for_doors(running: Installation) -> None:
    folder = job_folder(running)
    status = json.loads((folder / "status.json").read_text())
    assert status["instances"][0]["address"] == {"kind": "parked"}
    job = json.loads((folder / "job.json").read_text())
    assert job["control"]["urls"] == [f"https://{gateway}" for gateway in job["door"]["gateways"]]
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.key")} == {0o600}
    assert listening(status["pid"]) == []


@REVERSE
def test_a_gateway_that_is_replaced_cuts_no_stream_and_one_that_is_killed_is_parked_at_again(
    running: Installation,
) -> None:
    stream = Stream(running, asks("tokens=150 every=0.02", model="a", stream=True))
    stream.wait_for(b"w0 ")
    before = running.part_pid("gateway")
    running.process.send_signal(signal.SIGUSR2)
    running.until(lambda: any(pid != before for pid in running.part_pids("gateway")))
    stream.assert_whole(150)
    running.until(lambda: before not in running.part_pids("gateway"))
    running.until(lambda: answered(running))
    killed = running.part_pid("gateway")
    os.kill(killed, signal.SIGKILL)
    running.until(lambda: killed not in running.part_pids("gateway"))
    running.until(lambda: answered(running))


def answered(running: Installation) -> bool:
    """Tell whether a request is answered, of which some may not reach a gateway that has only just started."""
    with contextlib.suppress(OSError):
        return running.request("POST", "/v1/chat/completions", asks("tokens=1", model="a"))[0] == 200
    return False


def listening(pid: int) -> list[str]:
    """List where a process listens for TCP."""
    inodes = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1])
    return found
