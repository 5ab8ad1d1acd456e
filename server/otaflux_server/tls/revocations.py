"""Certificate revocation lists (RFC 5280, section 5), of the authorities that issue to clients."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from otaflux_server.tls.reasons import TlsRefusal

_KNOWN_CRITICAL = frozenset({ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER})
_MOST_ISSUERS = 64


class NotAccepted(Exception):
    """A client's certificate is refused; the text says why, in words for the log."""

    def __init__(self, reason: TlsRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RevocationList:
    """One complete list. Raises ValueError: it is one that is not understood."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self._crl = crl
        if crl.next_update_utc is None:
            raise ValueError("a revocation list without a time of its next update")
        for extension in crl.extensions:
            if extension.critical and extension.oid not in _KNOWN_CRITICAL:
                # Most of all those of delta and indirect lists: what they leave out is not known.
                raise ValueError(
                    f"a revocation list with the critical extension {extension.oid.dotted_string}: "
                    "only complete lists of the issuer itself are understood"
                )
        self.issuer = crl.issuer
        self.since = crl.last_update_utc
        self.until = crl.next_update_utc
        self._serials = frozenset(revoked.serial_number for revoked in crl)
        self._signed_by: dict[bytes, bool] = {}

    def has(self, certificate: x509.Certificate) -> bool:
        """Whether it revokes this certificate, of this issuer."""
        return certificate.serial_number in self._serials

    def is_of(self, issuer: x509.Certificate) -> bool:
        """Whether this issuer signed it, and may."""
        key = issuer.fingerprint(hashes.SHA256())
        known = self._signed_by.get(key)
        if known is None:
            if len(self._signed_by) >= _MOST_ISSUERS:
                self._signed_by.clear()
            known = self._signed_by[key] = self._verify(issuer)
        return known

    def _verify(self, issuer: x509.Certificate) -> bool:
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            pass
        else:
            if not usage.crl_sign:
                return False
        try:
            # (of a key that signs nothing it raises TypeError)
            key = cast(CertificateIssuerPublicKeyTypes, issuer.public_key())
            return self._crl.is_signature_valid(key)
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            return False


def check_revocation(
    lists: Sequence[RevocationList],
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
) -> datetime:
    """Until when the lists say that the certificate is not revoked.

    Raises:
        NotAccepted: it is revoked, or no list that is current says anything of it.
    """
    name = certificate.subject.rfc4514_string()
    fitting = [
        found
        for found in lists
        if found.issuer == certificate.issuer and found.since <= now and found.is_of(issuer)
    ]
    if any(found.has(certificate) for found in fitting):
        raise NotAccepted(TlsRefusal.REVOKED, f"{name} is revoked")
    current = [found.until for found in fitting if now < found.until]
    if not current:
        raise NotAccepted(
            TlsRefusal.REVOCATION_UNKNOWN,
            f"no current revocation list of {certificate.issuer.rfc4514_string()}",
        )
    return max(current)
