# SPDX-License-Identifier: Apache-2.0
"""What is seen on a real disk: modes, folders that are not there yet, certificates and keys."""

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firstkit.config.disk import Disk
from firstkit.config.loading import load
from firstkit.core.errors import ConfigError

DISK = Disk()


def make_pair(folder: Path, name: str, *, password: bytes | None = None) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    shut = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, shut),
    )
    files[1].chmod(0o600)
    return files


def test_a_folder_that_is_not_there_can_be_made_where_its_parents_can_be_written(tmp_path: Path) -> None:
    assert DISK.why_not_writable(tmp_path / "a" / "b") == ""
    assert DISK.why_not_writable(tmp_path) == ""


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert DISK.why_not_writable(tmp_path / "file" / "b") == f"{tmp_path}/file is no folder"


def test_a_folder_that_others_may_write_or_own_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert DISK.why_not_ours(folder) == ""
    folder.mkdir(mode=0o755)
    assert DISK.why_not_ours(folder) == ""
    for mode in (0o775, 0o757, 0o1777):
        folder.chmod(mode)
        assert "written by others" in DISK.why_not_ours(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that belongs to somebody else")
def test_a_folder_of_another_user_is_not_ours(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert "another user" in DISK.why_not_ours(tmp_path)


def test_a_run_directory_in_which_others_could_swap_what_jobs_run_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    run_dir.chmod(0o777)
    file = tmp_path / "first.yaml"
    file.write_text(
        f"clusters: {{here: {{scheduler: {{kind: local}}, runner: {{kind: local}}, link: {{kind: local}}, "
        f"run_dir: {run_dir}}}}}\n"
    )
    with pytest.raises(ConfigError, match="who could change what jobs run"):
        load(file, data_dir=Path("/state"))
    run_dir.chmod(0o700)
    assert load(file, data_dir=Path("/state")).catalog.clusters["here"].run_dir == str(run_dir)


def test_modes_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch()
    for mode, open_to_others, changed in [
        (0o600, False, False),
        (0o640, False, False),
        (0o644, True, False),
        (0o602, True, True),
    ]:
        file.chmod(mode)
        assert DISK.open_to_others(file) is open_to_others
        assert DISK.changed_by_others(file) is changed
    assert not DISK.open_to_others(tmp_path / "none")
    assert not DISK.changed_by_others(tmp_path / "none")


def test_a_link_to_nothing_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert not DISK.exists(tmp_path / "link")
    assert not DISK.is_folder(tmp_path / "link")


def test_a_certificate_goes_with_its_own_key_alone(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "first"), make_pair(tmp_path, "second")
    assert DISK.why_no_certificate(*first) == ""
    assert "does not belong" in DISK.why_no_certificate(first[0], second[1])
    assert "not PEM" in DISK.why_no_certificate(first[1], first[0])
    assert "cannot be read" in DISK.why_no_certificate(tmp_path / "none", first[1])
    shut = make_pair(tmp_path, "shut", password=b"secret")
    assert "encrypted" in DISK.why_no_certificate(*shut)


def test_tls_files_are_checked_as_a_gateway_would_use_them(tmp_path: Path) -> None:
    make_pair(tmp_path, "first")
    file = tmp_path / "first.yaml"
    file.write_text("gateway: {tls: {certificate: first.crt, key: first.key}}\n")
    tls = load(file, data_dir=Path("/state")).settings.gateway.tls
    assert tls is not None
    assert tls.certificate == f"{tmp_path}/first.crt"
    (tmp_path / "first.key").chmod(0o644)
    with pytest.raises(ConfigError, match="every user of this machine can read"):
        load(file, data_dir=Path("/state"))
