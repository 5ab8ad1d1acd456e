"""The authority that signs device certificates: its certificate and key, and what it issues.

RFC 5280. Pure, but for the random numbers of keys and serials.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otaflux_cli.errors import UserError

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CA_FILES = ("ca.crt", "ca.key")
TLS_FILES = ("tls.crt", "tls.key")
"""As cert-manager and `kubectl create secret tls` name them."""

_BACKDATED = datetime.timedelta(minutes=10)
"""Another host's clock may be behind."""
_LONGEST_NAME = 64
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LEAST_RSA = 2048
_KEYS = "the request's key: use P-256, P-384, P-521, or RSA of 2048 bits or more"


@dataclass(frozen=True)
class Authority:
    """The certificate, its key, and PEM that devices send after their own certificate."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)
    chain: bytes


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: SigningKey) -> bytes:
    """PKCS#8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def new_authority(name: str, days: int, now: datetime.datetime) -> Authority:
    """A self-signed one that may issue certificates, but no further authorities.

    Raises ValueError: the name is none.
    """
    key = new_key()
    subject = common_name(name)
    certificate = (
        _builder(subject, subject, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key, b"")


def load_authority(files: Mapping[str, bytes], place: str, now: datetime.datetime) -> Authority:
    """The one in these files, under either pair of names. Raises UserError."""
    names = next((pair for pair in (CA_FILES, TLS_FILES) if set(pair) <= set(files)), None)
    if names is None:
        raise UserError(
            f"there is no authority in {place}: neither ca.crt and ca.key nor tls.crt and tls.key",
            hint=f"Make one: otaflux device cert ca create --ca {place}",
        )
    certificates = _certificates(files[names[0]], f"{names[0]} of {place}")
    certificate = certificates[0]
    try:
        key = serialization.load_pem_private_key(files[names[1]], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError(f"{names[1]} of {place} is no unencrypted private key in PEM") from None
    if not isinstance(key, SigningKey):
        raise UserError(f"{names[1]} of {place}: write an EC or RSA key")
    if key.public_key() != certificate.public_key():
        raise UserError(f"{names[0]} and {names[1]} of {place} do not belong together")
    if not _is_authority(certificate):
        raise UserError(f"{names[0]} of {place} is no certificate of an authority")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise UserError(
            f"the authority in {place} is not valid now, but from "
            f"{certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}",
            hint="Make a new one in another place, and give servers both while devices change.",
        )
    own = certificate.subject == certificate.issuer
    chain = b"" if own else b"".join(map(certificate_pem, certificates))
    return Authority(certificate, key, chain)


def identity(namespace: str, device: str) -> str:
    """The URI that names the device in its certificate."""
    return f"otaflux://{namespace}/{device}"


def issue(
    authority: Authority,
    namespace: str,
    device: str,
    key: PublicKey,
    days: int,
    now: datetime.datetime,
) -> x509.Certificate:
    """A client certificate for the device. Raises UserError where it would outlive its issuer."""
    if now + datetime.timedelta(days=days) > authority.certificate.not_valid_after_utc:
        left = (authority.certificate.not_valid_after_utc - now).days
        raise UserError(
            f"the authority ends before: in {left} days",
            hint=f"Give at most --days {left}, or make a new authority.",
        )
    name = common_name(device) if len(device) <= _LONGEST_NAME else x509.Name([])
    names = [x509.UniformResourceIdentifier(identity(namespace, device))]
    return sign_end(authority, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, key, days, now)


def sign_end(
    authority: Authority,
    name: x509.Name,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    key: PublicKey,
    days: int,
    now: datetime.datetime,
) -> x509.Certificate:
    """The certificate of a client or server (an end entity of RFC 5280), for this purpose alone.

    `name`: its subject, which may be empty; `names`: its alternative ones.
    """
    return (
        _builder(name, authority.certificate.subject, key, days, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(names),
            critical=not name.rdns,  # RFC 5280, 4.2.1.6
        )
        .add_extension(key_identifier(authority.certificate), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def common_name(text: str) -> x509.Name:
    """A name of this part alone. Raises ValueError: it is empty, or longer than 64 characters."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How what it signs refers to the issuer's key."""
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, PublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def requested_key(request: bytes) -> PublicKey:
    """The key of a certificate request in PEM. What else it asks for is not looked at.

    Raises:
        UserError: it is none, is not signed by its own key, or the key is too weak.
    """
    try:
        read = x509.load_pem_x509_csr(request)
        key = read.public_key()
        proven = read.is_signature_valid
    except (ValueError, TypeError):
        raise UserError("this is no certificate request in PEM (PKCS#10)") from None
    except UnsupportedAlgorithm:
        raise UserError(_KEYS) from None
    if not proven:
        raise UserError("the request is not signed by the key that it names")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA:
        return key
    raise UserError(_KEYS)


def read_certificate(content: bytes, name: str) -> x509.Certificate:
    """The first certificate of a PEM file. Raises UserError."""
    return _certificates(content, name)[0]


def _certificates(content: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise UserError(f"{name} is no certificate in PEM") from None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, days: int, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
