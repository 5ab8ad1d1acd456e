"""Why a TLS connection is refused: one word each in metrics and log."""

import ssl
from enum import StrEnum


class TlsRefusal(StrEnum):
    """Why a connection is refused; `MEANINGS` says what each tells a person."""

    NO_CERTIFICATE = "NoCertificate"
    UNKNOWN_AUTHORITY = "UnknownAuthority"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    REVOCATION_UNKNOWN = "RevocationUnknown"
    CERTIFICATE_UNFIT = "CertificateUnfit"
    VERSION = "Version"
    NOT_TLS = "NotTls"
    ALERT = "Alert"
    TIMEOUT = "Timeout"
    CLOSED = "Closed"
    FAILED = "Failed"


MEANINGS: dict[TlsRefusal, str] = {
    TlsRefusal.NO_CERTIFICATE: "The client showed no certificate, and `client_ca` is set.",
    TlsRefusal.UNKNOWN_AUTHORITY: (
        "The client's certificate comes from no authority of `client_ca`, or it did not send the "
        "ones between."
    ),
    TlsRefusal.EXPIRED: "A certificate of the client's chain is not valid at this time.",
    TlsRefusal.REVOKED: "A certificate of the client's chain is revoked.",
    TlsRefusal.REVOCATION_UNKNOWN: (
        "`crl` holds no current list of an authority of the client's chain: it is missing, or its "
        "next update is due."
    ),
    TlsRefusal.CERTIFICATE_UNFIT: (
        "The client's certificate is not made for this: its key usage, a weak signature "
        "or key, or a chain of more than 16 KiB."
    ),
    TlsRefusal.VERSION: "The client speaks no TLS from `minimum` on, or none of its ciphers.",
    TlsRefusal.NOT_TLS: "What came is not TLS; plain HTTP, for example.",
    TlsRefusal.ALERT: (
        "The client gave up with an alert: mostly it does not trust the server's certificate."
    ),
    TlsRefusal.TIMEOUT: "The handshake was not complete within `handshake_seconds`.",
    TlsRefusal.CLOSED: "The client went away within the handshake; nothing is logged.",
    TlsRefusal.FAILED: "Something else was wrong in the handshake.",
}

# X509_V_ERR_… of OpenSSL's <openssl/x509_vfy.h>
_VERIFICATION = {
    2: TlsRefusal.UNKNOWN_AUTHORITY,
    3: TlsRefusal.REVOCATION_UNKNOWN,
    7: TlsRefusal.UNKNOWN_AUTHORITY,
    9: TlsRefusal.EXPIRED,
    10: TlsRefusal.EXPIRED,
    11: TlsRefusal.REVOCATION_UNKNOWN,
    12: TlsRefusal.REVOCATION_UNKNOWN,
    18: TlsRefusal.UNKNOWN_AUTHORITY,
    19: TlsRefusal.UNKNOWN_AUTHORITY,
    20: TlsRefusal.UNKNOWN_AUTHORITY,
    21: TlsRefusal.UNKNOWN_AUTHORITY,
    22: TlsRefusal.UNKNOWN_AUTHORITY,
    23: TlsRefusal.REVOKED,
    44: TlsRefusal.REVOCATION_UNKNOWN,
}
_REASONS = {
    "EXCESSIVE_MESSAGE_SIZE": TlsRefusal.CERTIFICATE_UNFIT,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": TlsRefusal.NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": TlsRefusal.VERSION,
    "NO_SHARED_CIPHER": TlsRefusal.VERSION,
    "VERSION_TOO_LOW": TlsRefusal.VERSION,
    "WRONG_VERSION_NUMBER": TlsRefusal.NOT_TLS,
    "HTTP_REQUEST": TlsRefusal.NOT_TLS,
    "HTTPS_PROXY_REQUEST": TlsRefusal.NOT_TLS,
    "UNEXPECTED_MESSAGE": TlsRefusal.NOT_TLS,
    "RECORD_LAYER_FAILURE": TlsRefusal.NOT_TLS,
}


def refusal_of(error: BaseException) -> TlsRefusal:
    """Why a handshake of a server ended with this error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFICATION.get(error.verify_code, TlsRefusal.CERTIFICATE_UNFIT)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "_ALERT_" in reason:
            return TlsRefusal.ALERT
        return _REASONS.get(reason, TlsRefusal.FAILED)
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return TlsRefusal.TIMEOUT
    if isinstance(error, OSError):
        return TlsRefusal.CLOSED
    return TlsRefusal.FAILED
