# SPDX-License-Identifier: Apache-2.0
"""nginx (Debian's) relaying and nothing else: the floor of what a proxy costs.

Also the TLS front of the imitated engines.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import KEY, Running, Site
from benchmarks.processes import Process, free_port
from benchmarks.target import Target, get

MAIN = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
{modules}{user}
events {{ worker_connections 8192; }}
"""
HTTP = """\
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 64k;
  keepalive_requests 10000000;
  keepalive_timeout 3600s;
  tcp_nodelay on;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_buffering off;
  proxy_request_buffering off;
  proxy_read_timeout 3600s;
  proxy_ssl_session_reuse on;
  proxy_ssl_protocols TLSv1.3;
  ssl_certificate {certificate};
  ssl_certificate_key {private_key};
  ssl_protocols TLSv1.3;
{servers}}}
"""
SERVER = """\
  upstream {name} {{
    least_conn;
{upstreams}    keepalive 1024;
    keepalive_requests 10000000;
    keepalive_timeout 3600s;
  }}
  server {{
    listen {listen};
    location / {{ proxy_pass {scheme}://{name}; }}
  }}
"""
STREAM = """\
stream {{
  ssl_certificate {certificate};
  ssl_certificate_key {private_key};
  ssl_protocols TLSv1.3;
  proxy_timeout 3600s;
{servers}}}
"""
FRONT = "  server {{ listen 127.0.0.1:{listen} ssl; proxy_pass 127.0.0.1:{port}; tcp_nodelay on; }}\n"


def _missing(*, stream: bool = False) -> str:
    if shutil.which("nginx") is None:
        return "nginx is missing: apt-get install nginx-light"
    if stream and not _stream_module().exists():
        return "nginx's stream module is missing: apt-get install libnginx-mod-stream"
    return ""


def _stream_module() -> Path:
    return Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def _main(folder: Path, *, modules: str = "") -> str:
    return MAIN.format(folder=folder, modules=modules, user="user root;" if os.geteuid() == 0 else "")


def _start(name: str, folder: Path, configuration: str) -> Process:
    path = folder / "nginx.conf"
    path.write_text(configuration)
    return Process.start(
        name, ["nginx", "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(path)], folder=folder
    )


def _server(name: str, *, listen: str, scheme: str, upstreams: Sequence[str]) -> str:
    lines = "".join(f"    server {upstream};\n" for upstream in upstreams)
    return SERVER.format(name=name, listen=listen, scheme=scheme, upstreams=lines)


class Nginx:
    """One worker; least connections, kept upstream connections, no buffering, no access log."""

    name = "nginx"
    skips: frozenset[str] = frozenset()

    def missing(self) -> str:
        return _missing()

    def start(self, site: Site) -> Running:
        folder = site.own(self.name)
        plain, secure, unix = free_port(), free_port(), str(folder / "nginx.sock")
        servers = _server(
            "plain", listen=f"127.0.0.1:{plain}", scheme="http", upstreams=[f"127.0.0.1:{port}" for port in site.ports]
        )
        servers += _server(
            "sockets", listen=f"unix:{unix}", scheme="http", upstreams=[f"unix:{path}" for path in site.sockets]
        )
        if site.tls_ports:
            upstreams = [f"127.0.0.1:{port}" for port in site.tls_ports]
            servers += _server("secure", listen=f"127.0.0.1:{secure} ssl", scheme="https", upstreams=upstreams)
        http = HTTP.format(folder=folder, certificate=site.certificate, private_key=site.private_key, servers=servers)
        process = _start(self.name, folder, _main(folder) + http)
        process.wait_until(lambda: _answers(f"http://127.0.0.1:{plain}/v1/models"), "an answer", deadline_s=10)
        roots = (process.pid,)
        targets = {
            "tcp": Target(roots=roots, port=plain, key=KEY, model=site.model),
            "unix": Target(roots=roots, unix=unix, key=KEY, model=site.model),
        }
        if site.tls_ports:
            targets["tls"] = Target(roots=roots, port=secure, tls=True, key=KEY, model=site.model)
        version = (
            subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
            .stderr.strip()
            .rpartition("/")[2]
        )
        return Running(
            version=version, processes=[process], targets=targets, notes="relaying only, least_conn, no access log"
        )


def start_tls_front(
    folder: Path, *, ports: Sequence[int], certificate: Path, private_key: Path
) -> tuple[Process, tuple[int, ...]]:
    """Put TLS in front of the imitated engines, splicing bytes as an instance's door does. No contender's cost."""
    folder.mkdir()
    tls_ports = tuple(free_port() for _ in ports)
    servers = "".join(FRONT.format(listen=tls, port=port) for tls, port in zip(tls_ports, ports, strict=True))
    stream = STREAM.format(certificate=certificate, private_key=private_key, servers=servers)
    text = _main(folder, modules=f"load_module {_stream_module()};\n") + stream
    process = _start("tls-front", folder, text)
    process.wait_until((folder / "nginx.pid").exists, "its pid file", deadline_s=10)
    return process, tls_ports


def tls_front_missing() -> str:
    """Say what the TLS front of the engines needs."""
    return _missing(stream=True)


def _answers(url: str) -> bool:
    try:
        return bool(get(url))
    except OSError:
        return False
