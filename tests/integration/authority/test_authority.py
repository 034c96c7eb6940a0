# SPDX-License-Identifier: Apache-2.0
"""The installation's certificates in real TLS handshakes: who is let in, and who is not."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firstkit.adapters.links.authority import GATEWAY, Authority, Issued
from firstkit.core.ids import door_name

JOB, OTHER = "j-000000000001", "j-000000000002"


def store(folder: Path, issued: Issued) -> Path:
    path = folder / "pair.pem"
    path.write_bytes(issued.certificate + issued.key)
    return path


def door_context(folder: Path, authority: Authority, issued: Issued) -> ssl.SSLContext:
    """Make a door's side as the launcher does: its own certificate, clients of this authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store(folder, issued))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate.decode())
    return context


@contextmanager
def door(context: ssl.SSLContext) -> Iterator[tuple[tuple[str, int], list[object]]]:
    """Serve one connection; what became of it is in the list afterwards: the client's names, or the error."""
    outcome: list[object] = []

    def serve(listening: socket.socket) -> None:
        try:
            raw, _ = listening.accept()
            with raw, context.wrap_socket(raw, server_side=True) as connection:
                peer = connection.getpeercert() or {}
                connection.sendall(b"hello")
                connection.recv(16)
                outcome.append([value for kind, value in peer.get("subjectAltName", ()) if kind == "DNS"])
        except (ssl.SSLError, OSError) as error:
            outcome.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield listening.getsockname(), outcome
        thread.join()


def say_hello(address: tuple[str, int], context: ssl.SSLContext, name: str) -> bytes:
    with (
        socket.create_connection(address, timeout=20) as raw,
        context.wrap_socket(raw, server_hostname=name) as connection,
    ):
        data = connection.recv(16)
        connection.sendall(b"bye")
        return data


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def issue_door(authority: Authority, job: str = JOB, *, valid_s: float = 3600) -> Issued:
    return authority.issue(name=door_name(job), valid_s=valid_s, server=True)


def test_a_gateway_and_a_door_know_each_other(authority: Authority, tmp_path: Path) -> None:
    with door(door_context(tmp_path, authority, issue_door(authority))) as (address, outcome):
        assert say_hello(address, authority.gateway_context(), door_name(JOB)) == b"hello"
    assert outcome == [[GATEWAY]]


def test_another_jobs_door_is_not_taken_for_the_one_that_was_dialled(authority: Authority, tmp_path: Path) -> None:
    with (
        door(door_context(tmp_path, authority, issue_door(authority, OTHER))) as (address, outcome),
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        say_hello(address, authority.gateway_context(), door_name(JOB))
    assert isinstance(outcome[0], OSError)


def test_a_stranger_without_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    stranger = ssl.create_default_context(cadata=authority.certificate.decode())
    with (
        door(door_context(tmp_path, authority, issue_door(authority))) as (address, outcome),
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        say_hello(address, stranger, door_name(JOB))
    assert isinstance(outcome[0], ssl.SSLError)


def test_a_gateway_of_another_installation_is_refused_and_refuses(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with (
        door(door_context(tmp_path, authority, issue_door(authority))) as (address, outcome),
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        say_hello(address, other.gateway_context(), door_name(JOB))
    assert outcome


def test_a_stranger_that_trusts_the_door_with_a_certificate_of_its_own_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(cadata=authority.certificate.decode())
    stranger.load_cert_chain(store(tmp_path / "other", other.issue(name=GATEWAY, valid_s=60, server=False)))
    with (
        door(door_context(tmp_path, authority, issue_door(authority))) as (address, outcome),
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        say_hello(address, stranger, door_name(JOB))
    assert isinstance(outcome[0], ssl.SSLError)


def test_a_doors_certificate_cannot_be_used_as_a_gateways(authority: Authority, tmp_path: Path) -> None:
    """A job holds its door's key; with it, it may not dial other jobs' doors."""
    thief = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    thief.load_verify_locations(cadata=authority.certificate.decode())
    folder = tmp_path / "thief"
    folder.mkdir()
    thief.load_cert_chain(store(folder, issue_door(authority, OTHER)))
    with (
        door(door_context(tmp_path, authority, issue_door(authority))) as (address, outcome),
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        say_hello(address, thief, door_name(JOB))
    assert isinstance(outcome[0], ssl.SSLError)


def test_an_expired_door_is_refused(authority: Authority, tmp_path: Path) -> None:
    with (
        door(door_context(tmp_path, authority, issue_door(authority, valid_s=-60))) as (address, outcome),
        pytest.raises(ssl.SSLCertVerificationError, match="expired"),
    ):
        say_hello(address, authority.gateway_context(), door_name(JOB))
    assert outcome


def test_the_authority_is_the_same_after_a_restart_and_its_files_are_private(tmp_path: Path) -> None:
    first = Authority(tmp_path / "ca")
    again = Authority(tmp_path / "ca")
    assert again.certificate == first.certificate
    with door(door_context(tmp_path, first, issue_door(again))) as (address, _):
        assert say_hello(address, first.gateway_context(), door_name(JOB)) == b"hello"
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").iterdir()} == {
        "ca.crt": 0o600,
        "ca.key": 0o600,
    }


def test_processes_that_start_at_once_make_one_authority(tmp_path: Path) -> None:
    """Gateway and controller start together, and each needs it."""
    made: list[bytes] = []
    gate = threading.Barrier(6)

    def make() -> None:
        gate.wait()
        made.append(Authority(tmp_path / "ca").certificate)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
