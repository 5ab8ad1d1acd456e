"""Certificate authorities of a test's own: servers, clients, revocation lists, of any kind."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def p256() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def rsa2048() -> Key:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key; `between` are those up to, and without, the root."""

    certificate: x509.Certificate
    key: Key
    between: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        chain = (self.certificate, *self.between)
        return b"".join(item.public_bytes(Encoding.PEM) for item in chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Certificate (with its chain) and key, as files."""
        files = folder / f"{name}.crt", folder / f"{name}.key"
        files[0].write_bytes(self.pem)
        files[1].write_bytes(self.key_pem)
        return files


_SIGNS = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Issues certificates; `root` None: it is one."""

    def __init__(
        self, name: str, root: Authority | None = None, *, path_length: int | None = None
    ) -> None:
        self.key = p256()
        self._between: tuple[x509.Certificate, ...] = ()
        issuer = self if root is None else root
        self.name = _name(name)
        builder = (
            _builder(self.name, issuer, self.key, -DAY, 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_SIGNS, critical=True)
        )
        self.certificate = builder.sign(issuer.key, hashes.SHA256())
        if root is not None:
            self._between = (self.certificate, *root._between)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def server(self, key: Key | None = None, *, until: timedelta = 10 * DAY) -> Issued:
        """For 127.0.0.1 and localhost."""
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        return self._issue("server", key, -DAY, until, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(
        self,
        name: str = "kitchen-1",
        *,
        namespace: str = "home",
        since: timedelta = -DAY,
        until: timedelta = 10 * DAY,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Issued:
        """Of a device; valid from `since` to `until`, seen from now."""
        names = [x509.UniformResourceIdentifier(f"otaflux://{namespace}/{name}")]
        return self._issue(name, None, since, until, usage, names)

    def revocations(
        self,
        *revoked: Issued | x509.Certificate,
        since: timedelta = -DAY,
        until: timedelta = DAY,
    ) -> bytes:
        """Its list, in PEM."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now + since)
            .next_update(now + until)
        )
        for item in revoked:
            certificate = item.certificate if isinstance(item, Issued) else item
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(now + since)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(
        self,
        name: str,
        key: Key | None,
        since: timedelta,
        until: timedelta,
        usage: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> Issued:
        key = key or p256()
        certificate = (
            _builder(_name(name), self, key, since, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(certificate, key, self._between)


def unreadable(certificate: x509.Certificate) -> bytes:
    """It (PEM) as one of a version that there is not, which OpenSSL hands on all the same."""
    content = certificate.public_bytes(Encoding.DER)
    version = bytes.fromhex("a0030201")
    before, _, after = content.partition(version)
    return ssl.DER_cert_to_PEM_cert(before + version + b"\x05" + after[1:]).encode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: Authority, key: Key, since: timedelta, until: timedelta
) -> x509.CertificateBuilder:
    """With all that RFC 5280 demands, as Python 3.13 does, too."""
    now = datetime.now(UTC)
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(of_issuer, critical=False)
        .add_extension(own, critical=False)
    )
