# SPDX-License-Identifier: Apache-2.0
"""A gateway process on a Unix socket, and one with TLS whose certificate is renewed while it runs."""

import contextlib
import http.client
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

from firstkit.adapters.links.authority import Authority
from firstkit.adapters.store import migrate_store
from firstkit.core.settings import StoreSettings

PATIENCE_S = 60.0


@contextlib.contextmanager
def gateway(folder: Path, settings: str, *inherited: int) -> Generator[subprocess.Popen[bytes]]:
    """Run a gateway on a store of its own; it ends as its supervisor would end it."""
    config, state = folder / "first.yaml", folder / "state"
    config.write_text(f"store: sqlite:///first.db\ngateway: {settings}\n")
    migrate_store(StoreSettings(url="sqlite:///first.db"), folder=state)
    command = ["gateway", "--without-api", "--config", str(config), "--data", str(state)]
    command += [word for number in inherited for word in ("--listen-fd", str(number))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "firstkit.apps.cli", *command], pass_fds=inherited, stdout=log, stderr=log
        )
    try:
        yield process
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def until(holds: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def status_over(connection: socket.socket) -> int:
    """Ask for the gateway's health on an open connection."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_it_listens_on_a_unix_socket_of_its_own_user_and_takes_it_away(tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    with gateway(tmp_path, f"{{listen: 'unix:{path}'}}"):
        until(path.exists, tmp_path / "log")
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            until(lambda: client.connect_ex(str(path)) == 0, tmp_path / "log")
            assert status_over(client) == 200
    assert not path.exists()
    assert not (tmp_path / "state" / "run" / "admin.sock").exists()


def test_a_renewed_certificate_is_used_after_a_hup_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def renew() -> None:
        issued = authority.issue(name="localhost", address="127.0.0.1", valid_s=3600.0, server=True)
        certificate.write_bytes(issued.certificate)
        key.write_bytes(issued.key)
        key.chmod(0o600)

    trust = ssl.create_default_context(cadata=authority.certificate.decode())

    def served_with() -> str:
        plain = socket.create_connection(where, timeout=PATIENCE_S)
        with trust.wrap_socket(plain, server_hostname="localhost") as client:
            found = client.getpeercert()
            assert found is not None
            assert status_over(client) == 200
            return str(found["serialNumber"])

    renew()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        settings = f"{{tls: {{certificate: '{certificate}', key: '{key}'}}}}"
        with gateway(tmp_path, settings, listener.fileno()) as process:
            first = served_with()
            renew()
            process.send_signal(signal.SIGHUP)
            until(lambda: served_with() != first, tmp_path / "log")
            second = served_with()
            key.write_text("no key")
            process.send_signal(signal.SIGHUP)
            until(lambda: "reload_refused" in (tmp_path / "log").read_text(), tmp_path / "log")
            assert served_with() == second
