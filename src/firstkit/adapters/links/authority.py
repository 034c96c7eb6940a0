# SPDX-License-Identifier: Apache-2.0
"""The installation's certificate authority: short-lived certificates for doors, one for the gateway's side.

Doors admit only the certificate named GATEWAY, the gateway only doors of this authority; a job's certificate is worth
nothing to anybody else and ends with the job.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import ipaddress
import os
import ssl
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firstkit.core.control import GATEWAY_NAME
from firstkit.core.errors import SiteError

GATEWAY = GATEWAY_NAME
_BACKDATE = dt.timedelta(hours=1)
"""Certificates begin an hour early, so that a node whose clock is behind still takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Make and load the authority kept in a private folder (ca.crt, ca.key)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone_in(folder):
                if not (folder / "ca.key").exists():
                    self._make()
            self._key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
            self.certificate = (folder / "ca.crt").read_bytes()
            self._ca = x509.load_pem_x509_certificate(self.certificate)
        except OSError as error:
            raise SiteError(
                f"the certificate authority in {folder} cannot be used ({error.strerror}); "
                "make the folder writable for this user alone",
                code="authority_unusable",
            ) from error
        except ValueError as error:
            raise SiteError(
                f"the certificate authority in {folder} is damaged; bring ca.crt and ca.key back from a backup, or "
                "remove both (running jobs behind doors are then replaced)",
                code="authority_unusable",
            ) from error

    def _make(self) -> None:
        """Write a new authority; the key last, since its presence says that all is there."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "firstkit installation")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_ca_usage(), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self._folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        _write(self._folder / "ca.key", _pem(key))

    def issue(self, *, name: str, address: str = "", valid_s: float, server: bool) -> Issued:
        """Issue a certificate for a name (and an address): for who accepts TLS (`server`) or dials; ECDSA P-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if address:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            self._ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + dt.timedelta(seconds=valid_s))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())  # pyright: ignore[reportArgumentType] — always the EC key made above
        )
        return Issued(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_pem(key))

    def gateway_context(self) -> ssl.SSLContext:
        """Make the context with which a gateway dials doors: its own certificate, no other authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.certificate.decode())
        self._certify(context, server=False)
        return context

    def doors_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """Make the context of the port at which doors arrive; nobody gets further who is not certified by us.

        `protocols`: what may be spoken there (ALPN).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.certificate.decode())
        context.num_tickets = 0  # a resumed connection would come without its certificate
        context.set_alpn_protocols(list(protocols))
        self.renew_doors(context)
        return context

    def renew_doors(self, context: ssl.SSLContext) -> None:
        """Give that context a new certificate, for connections to come."""
        self._certify(context, server=True)

    def _certify(self, context: ssl.SSLContext, *, server: bool) -> None:
        """Load a certificate of the gateway's with its key: in memory alone, and longer than a gateway runs."""
        issued = self.issue(name=GATEWAY, valid_s=400 * 86400, server=server)
        pair = self._folder / f".gateway.{os.getpid()}.pem"
        _write(pair, issued.certificate + issued.key)
        try:
            context.load_cert_chain(pair)
        finally:
            pair.unlink()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Keep our other processes out: two at once would leave the key of one beside the certificate of the other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
    temporary.replace(path)
