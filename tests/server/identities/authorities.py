"""A certificate authority of a test's own, and the certificates of devices."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @property
    def quoted(self) -> str:
        """As nginx and Envoy write it."""
        return quote(self.pem, safe="")

    @property
    def sequence(self) -> str:
        """As RFC 9440 says."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return f":{base64.b64encode(der).decode()}:"


def uri(namespace: str, device: str) -> str:
    return f"otaflux://{namespace}/{device}"


@cache
def authority() -> Issued:
    return issue(common_name="test authority", ca=True)


def issue(
    *,
    uris: tuple[str, ...] = (),
    dns_names: tuple[str, ...] = (),
    common_name: str = "a device",
    begins: timedelta = -_DAY,
    ends: timedelta = _DAY,
    ca: bool = False,
) -> Issued:
    """A certificate with these names, valid from `begins` to `ends` (from now)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    issuer = None if ca else authority()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    names = [
        *map(x509.UniformResourceIdentifier, uris),
        *map(x509.DNSName, dns_names),
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer = key if issuer is None else issuer.key
    return Issued(builder.sign(signer, hashes.SHA256()), key)


@cache
def of_device(namespace: str, device: str) -> Issued:
    """A good certificate of the device."""
    return issue(uris=(uri(namespace, device),))
