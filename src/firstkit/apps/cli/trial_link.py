# SPDX-License-Identifier: Apache-2.0
"""The way from the gateway's side to the test job's door, tried as a gateway would, and what a firewall must let by."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from firstkit.core.catalog import Cluster
from firstkit.core.control import ReportedAddress
from firstkit.core.ids import door_name

DIAL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking the program behind the door: its report, or why there is none (and what to do)."""

    report: dict[str, Any] | None = None
    fault: str = ""


def ask(address: ReportedAddress, *, cluster: Cluster, job: str, context: ssl.SSLContext) -> Asked:
    """Connect to where the launcher says that it is reached, and ask for the report; blocking, bounded."""
    where = address.path or f"{address.host}:{address.port}"
    try:
        connection = _dial(address)
    except socket.gaierror as error:
        return Asked(
            fault=f"the node's name {address.host} is not known here ({error.strerror}); set `link.address` to "
            "a name or an address by which nodes are reached from here"
        )
    except OSError as error:
        what = "nothing answered (most often a firewall)" if isinstance(error, TimeoutError) else str(error.strerror)
        return Asked(fault=f"{where}: {what}; {_rule(address, cluster)}")
    try:
        with contextlib.closing(connection):
            if address.kind == "tls":
                connection = context.wrap_socket(connection, server_hostname=door_name(job))
            with contextlib.closing(connection):
                return Asked(report=_get(connection))
    except ssl.SSLError as error:
        return Asked(
            fault=f"{where} answers, but not as the job's door ({error.reason}); another program has the port, or a "
            "box on the way opens TLS: have it let these connections pass"
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Asked(fault=f"{where} was connected and then failed: {error}; {_rule(address, cluster)}")


def _dial(address: ReportedAddress) -> socket.socket:
    if address.kind != "unix":
        return socket.create_connection((address.host, address.port), timeout=DIAL_S)
    way = socket.socket(socket.AF_UNIX)
    try:
        way.settimeout(DIAL_S)
        way.connect(address.path)
    except OSError:
        way.close()
        raise
    return way


def _get(connection: socket.socket) -> dict[str, Any]:
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    client.request("GET", "/")
    answer = client.getresponse()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"status {answer.status}")
    return json.loads(answer.read())


def _rule(address: ReportedAddress, cluster: Cluster) -> str:
    """Write the firewall rule to ask for."""
    if address.kind == "unix":
        return "link `local` is for engines on the gateway's own machine; use `direct` or another"
    first, last = cluster.link.ports or (address.port, address.port)
    return (
        f"ask the site to allow TCP from {_source(address)} (gateway) to the compute nodes (this one: {address.host}), "
        f"destination ports {first}-{last}, established connections back"
    )


def _source(address: ReportedAddress) -> str:
    """Find the address from which this machine reaches a host; nothing is sent."""
    with contextlib.suppress(OSError):
        family, kind, _, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    return socket.gethostname()
