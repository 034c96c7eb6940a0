# SPDX-License-Identifier: Apache-2.0
"""A certificate for loopback that signs itself."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(folder: Path) -> tuple[Path, Path]:
    """Write certificate and key (P-256, as a door's) and give their paths."""
    certificate, private_key = folder / "certificate.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    argv += ["-keyout", str(private_key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    private_key.chmod(0o600)
    return certificate, private_key
