# SPDX-License-Identifier: Apache-2.0
"""What the tests of the configuration share: the real adapters, and a disk that is only pretended."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from firstkit.adapters.engines.registry import load_engines
from firstkit.config.disk import Disk
from firstkit.ports.engine import Engine


class PretendDisk(Disk):
    """A disk that holds what is named here and nothing else; paths ending in / are folders."""

    FOLDERS = frozenset(
        {"/", "/srv", "/etc", "/models", "/models/llama", "/sealed", "/keys", "/tls", "/adapters", "/scratch"}
    )
    FILES = frozenset(
        {"/etc/passwd", "/images/vllm.sif", "/keys/open", "/keys/closed", "/tls/good.crt", "/tls/good.key"}
    )

    def exists(self, path: Path) -> bool:
        return str(path) in self.FOLDERS | self.FILES

    def is_folder(self, path: Path) -> bool:
        return str(path) in self.FOLDERS

    def readable(self, path: Path) -> bool:
        return self.exists(path)

    def open_to_others(self, path: Path) -> bool:
        return str(path) == "/keys/open"

    def changed_by_others(self, path: Path) -> bool:
        return False

    def may_write(self, folder: Path) -> bool:
        return str(folder) != "/sealed"

    def read_only(self, folder: Path) -> bool:
        return False

    def why_no_certificate(self, certificate: Path, key: Path) -> str:
        return "" if key.stem == certificate.stem else "the private key does not belong to the certificate"


@pytest.fixture(scope="session")
def engines() -> Mapping[str, Engine]:
    return load_engines()


@pytest.fixture(scope="session")
def disk() -> Disk:
    return PretendDisk()
