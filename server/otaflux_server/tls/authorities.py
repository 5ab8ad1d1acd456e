"""Whether a chain of certificates that a client showed is accepted, at a given time."""

import itertools
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from otaflux_server.tls.reasons import TlsRefusal
from otaflux_server.tls.revocations import NotAccepted, RevocationList, check_revocation

_MOST_DEEP = 8


class ClientAuthorities:
    """Who issues certificates to clients, and what they revoked; each one given is trusted itself.

    As strict as OpenSSL, which checks the same in the handshake, and no stricter: certificates of
    devices are made by authorities of all kinds, so that what RFC 5280 wants beyond what makes a
    chain safe is not asked for. `lists` None: nothing is ever revoked.
    """

    def __init__(
        self, certificates: Sequence[x509.Certificate], lists: Sequence[RevocationList] | None
    ) -> None:
        self._store = Store(list(certificates))
        self._lists = lists

    def accept(self, chain: Sequence[x509.Certificate], now: datetime) -> datetime:
        """Until when the chain (the client's own certificate first) is accepted, seen from `now`.

        Raises:
            NotAccepted: it is not.
        """
        if not chain:
            raise NotAccepted(TlsRefusal.NO_CERTIFICATE, "no certificate was shown")
        leaf, *between = chain[:_MOST_DEEP]
        name = leaf.subject.rfc4514_string()
        if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
            raise NotAccepted(TlsRefusal.EXPIRED, f"{name} is not valid at this time")
        verifier = (
            PolicyBuilder()
            .store(self._store)
            .time(now)
            .max_chain_depth(_MOST_DEEP)
            .extension_policies(ca_policy=_AUTHORITY, ee_policy=_CLIENT)
            .build_client_verifier()
        )
        try:
            found = verifier.verify(leaf, between).chain
        except (VerificationError, ValueError) as error:
            raise NotAccepted(TlsRefusal.UNKNOWN_AUTHORITY, f"{name}: {str(error)[:200]}") from None
        until = min(certificate.not_valid_after_utc for certificate in found)
        if self._lists is not None:
            # (one that is trusted itself would have to issue a list of itself)
            for certificate, issuer in itertools.pairwise(found if len(found) > 1 else found * 2):
                until = min(until, check_revocation(self._lists, certificate, issuer, now))
        return until


def _issues(_policy: Policy, _certificate: x509.Certificate, found: x509.BasicConstraints) -> None:
    if not found.ca:
        raise ValueError("an issuer that is no authority")


def _may_sign(_policy: Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("an issuer whose key may not sign certificates")


def _is_client(
    _policy: Policy, _certificate: x509.Certificate, found: x509.ExtendedKeyUsage | None
) -> None:
    if found is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in found:
        raise ValueError("a certificate that is not for clients")


_AUTHORITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _issues)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
)
_CLIENT = ExtensionPolicy.permit_all().may_be_present(
    x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_client
)
