"""Keys and certificates of one throw-away control plane or registry."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from otaflux_cli.enrolment.authorities import (
    certificate_pem,
    common_name,
    key_pem,
    new_authority,
    new_key,
    sign_end,
)

_DAYS = 7


@dataclass(frozen=True)
class ServerCertificate:
    """PEM files: the server's certificate and key, and the CA that signed it."""

    certificate: Path
    key: Path
    authority: Path


def write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Write a fresh P-256 key as PEM, readable by its owner only."""
    key = new_key()
    path.touch(mode=0o600)
    path.write_bytes(key_pem(key))
    return key


def write_public_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the public half of a key as PEM."""
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def write_server_certificate(
    folder: Path, *, names: tuple[str, ...] = ("localhost",), prefix: str = "server"
) -> ServerCertificate:
    """A CA of its own and a certificate for ``names`` and 127.0.0.1, valid for a week."""
    now = datetime.datetime.now(datetime.UTC)
    authority = new_authority("OtaFlux test authority", _DAYS, now)
    files = ServerCertificate(
        certificate=folder / f"{prefix}.crt",
        key=folder / f"{prefix}.key",
        authority=folder / f"{prefix}-ca.crt",
    )
    certificate = sign_end(
        authority,
        common_name(names[0]),
        [*map(x509.DNSName, names), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))],
        ExtendedKeyUsageOID.SERVER_AUTH,
        write_key(files.key).public_key(),
        _DAYS,
        now,
    )
    files.authority.write_bytes(certificate_pem(authority.certificate))
    files.certificate.write_bytes(certificate_pem(certificate))
    return files
