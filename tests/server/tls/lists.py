"""Revocation lists that are not complete."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.server.tls.authorities import DAY, Authority


def delta(authority: Authority) -> bytes:
    """One that only says what changed (RFC 5280, section 5.2.4)."""
    now = datetime.now(UTC)
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.name)
        .last_update(now - DAY)
        .next_update(now + DAY)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
