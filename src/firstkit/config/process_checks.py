# SPDX-License-Identifier: Apache-2.0
"""Cross checks of the process settings: addresses, database, and what may face the outside."""

from __future__ import annotations

import ipaddress
from pathlib import Path as FilePath
from urllib.parse import parse_qs, urlsplit

from firstkit.config.build import admin_socket
from firstkit.config.document import MapNode, Path
from firstkit.config.drafts import Draft
from firstkit.config.process_sections import Gateway, Store
from firstkit.config.report import Report, did_you_mean
from firstkit.config.values import MAX_SOCKET_PATH, write_duration
from firstkit.core.settings import Listen

_SCHEMES = ("sqlite", "postgresql")


def check_process(report: Report, draft: Draft, *, data_dir: FilePath) -> None:
    """Run every cross check of the process settings."""
    _check_listening(report, draft.gateway, data_dir)
    _check_doors(report, draft)
    if draft.store is not None:
        _check_store(report, draft.store)
    listen = draft.gateway.listen
    if not draft.identity.api_keys:
        report.add(
            ("identity", "api_keys"),
            "nobody could sign in, since API keys are the only identity that this version knows",
            expected="true, which is the default",
        )
    if is_public(listen) and draft.gateway.tls is None and report.node(("gateway", "tls")) is None:
        report.warn(
            ("gateway", "listen"),
            "keys and prompts travel unencrypted",
            hint="set gateway.tls, or let something in front do TLS",
        )
    _check_patience(report, draft)


def is_public(listen: Listen) -> bool:
    """Tell whether other machines can reach an address."""
    if listen.path or listen.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(listen.host).is_loopback
    except ValueError:
        return True


def _check_listening(report: Report, gateway: Gateway, data_dir: FilePath) -> None:
    longest = str(data_dir / "run" / "controller.sock")
    if len(longest.encode()) > MAX_SOCKET_PATH:
        report.add(
            (),
            f"the state folder's path is too long for the sockets in it: {longest} has {len(longest.encode())} bytes",
            expected=f"at most {MAX_SOCKET_PATH} bytes",
            hint="choose a state folder with a shorter path (--data)",
        )
    doors = gateway.doors
    if doors is not None:
        for what, other in (("clients", gateway.listen), ("operator routes", gateway.admin)):
            if not isinstance(other, str) and _same(doors, other):
                report.add(("gateway", "doors"), f"doors and {what} on one address", expected="another port")
    if isinstance(gateway.admin, str):
        if gateway.admin == "unix" and gateway.listen.path == admin_socket(data_dir):
            report.add(("gateway", "listen"), "is the socket of gateway.admin", expected="another path")
        return
    if _same(gateway.listen, gateway.admin):
        report.add(
            ("gateway", "admin"),
            "operator routes and clients on one address",
            expected="another port, or `unix`",
        )
    elif is_public(gateway.admin) and not gateway.admin_public:
        report.add(
            ("gateway", "admin"),
            "operator routes on an address that other machines reach",
            expected="`unix` or an address of this machine alone, such as 127.0.0.1:8001",
            hint="if it is meant, set `admin_public: true`",
        )


def _check_doors(report: Report, draft: Draft) -> None:
    """See that a gateway takes in what jobs send to gateways."""
    if draft.gateway.doors is not None or report.node(("gateway", "doors")) is not None:
        return
    for name, cluster in draft.clusters.items():
        if cluster.gateways:
            report.add(
                ("clusters", name, "gateways"),
                "no gateway takes in what this cluster's jobs send there",
                expected="`gateway.doors`, such as 0.0.0.0:8443",
                key=True,
            )


def _same(first: Listen, second: Listen) -> bool:
    """Tell whether two addresses clash; any address of a machine includes each of them."""
    if first.path or second.path:
        return first.path == second.path
    if first.port != second.port or first.port == 0:
        return False
    hosts = {"127.0.0.1" if host == "localhost" else host for host in (first.host, second.host)}
    return len(hosts) == 1 or bool(hosts & {"0.0.0.0", "::"})  # noqa: S104 compared, not listened on


def _check_store(report: Report, store: Store) -> None:
    path: Path = ("store", "url") if isinstance(report.node(("store",)), MapNode) else ("store",)
    url = store.url
    scheme, colon, rest = url.partition(":")
    driver = scheme.partition("+")[0]
    expected = "sqlite:///FILE or postgresql://USER@HOST/NAME"
    if _holds_password(url):
        # The URL itself is not repeated: what is refused here may end in a log.
        report.add(
            path,
            "a password in the URL",
            expected=expected,
            hint="put the password into a file and name it: `store: {url: …, password_file: …}`",
        )
    if not colon or driver not in _SCHEMES:
        postgres = driver in {"postgres", "pgsql", "pg"}
        hint = "did you mean `postgresql`?" if postgres else did_you_mean(driver, _SCHEMES)
        is_url = colon and rest.startswith("//")
        report.add(
            path, f"`{driver}` is no database for the store" if is_url else "is no URL", expected=expected, hint=hint
        )
        return
    if driver == "sqlite":
        if not url.startswith(f"{scheme}:///") or url.removeprefix(f"{scheme}:///") in {"", ":memory:"}:
            report.add(path, "names no file that all processes share", expected="a file, such as sqlite:///first.db")
        elif scheme != "sqlite" or "?" in url:
            report.add(path, "has more than the file's path in it", expected="a file, such as sqlite:///first.db")
        if store.password_file:
            report.add(("store", "password_file"), "SQLite takes no password", expected="no such key", key=True)
        return
    _check_postgres(report, path, url, expected)


def _holds_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.password is not None or "password" in parse_qs(parts.query)


def _check_postgres(report: Report, path: Path, url: str, expected: str) -> None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 asking is what raises
    except ValueError:
        report.add(path, "is no URL", expected=expected)
        return
    if parts.path in {"", "/"}:
        report.add(path, "names no database", expected=expected)


def _check_patience(report: Report, draft: Draft) -> None:
    gateway, controller = draft.gateway, draft.controller
    for section, lower, upper in (
        ("controller", "tick", "term_ttl"),
        ("controller", "backoff_first", "backoff_max"),
        ("controller", "lost_after", "fence"),
    ):
        small, large = getattr(controller, lower), getattr(controller, upper)
        if small > large:
            key = lower if report.node((section, lower)) is not None else upper
            report.add(
                (section, key),
                f"`{lower}` ({write_duration(small)}) is longer than `{upper}` ({write_duration(large)})",
                expected=f"`{lower}` at or below `{upper}`",
            )
    if gateway.queue_per_principal > gateway.queue and report.node(("gateway", "queue_per_principal")) is not None:
        report.warn(("gateway", "queue_per_principal"), f"is more than the whole queue, {gateway.queue}")
    for path, limit in gateway.body_limits.items():
        if not path.startswith("/"):
            report.add(
                ("gateway", "body_limits", path),
                f"`{path}` is no path",
                expected="a path such as /v1/audio/transcriptions",
                key=True,
            )
        elif limit == 0:
            report.add(("gateway", "body_limits", path), "lets no body through", expected="a size above 0")
