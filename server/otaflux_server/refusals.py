"""Why requests of devices are refused: one word each in metrics and log."""

from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

import structlog

from otaflux_server.lines import Lines
from otaflux_server.metrics import Metrics

log = structlog.get_logger(__name__)


class Refusal(StrEnum):
    """Why a request is refused; `MEANINGS` says what each tells a person."""

    INVALID_REQUEST = "InvalidRequest"
    NO_SUCH_PATH = "NoSuchPath"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    BODY_TOO_LARGE = "BodyTooLarge"
    NOT_HTTP = "NotHttp"
    HEAD_TOO_LARGE = "HeadTooLarge"
    TOO_MANY_REQUESTS = "TooManyRequests"
    TOO_MANY_DOWNLOADS = "TooManyDownloads"
    TOO_MANY_REFUSALS = "TooManyRefusals"
    ARTIFACT_LOST = "ArtifactLost"
    NO_CERTIFICATE = "NoCertificate"
    CERTIFICATE_UNREADABLE = "CertificateUnreadable"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    CERTIFICATE_NOT_ACCEPTED = "CertificateNotAccepted"
    CERTIFICATE_NAMES_NO_DEVICE = "CertificateNamesNoDevice"
    UNTRUSTED_PEER = "UntrustedPeer"
    DUPLICATE_HEADER = "DuplicateHeader"
    MALFORMED_HEADER = "MalformedHeader"
    NOT_VERIFIED = "NotVerified"
    NO_TOKEN = "NoToken"
    TOKEN_UNKNOWN = "TokenUnknown"
    TOKEN_EXPIRED = "TokenExpired"
    OTHER_NAMESPACE = "OtherNamespace"
    OTHER_DEVICE = "OtherDevice"


MEANINGS: dict[Refusal, str] = {
    Refusal.INVALID_REQUEST: "400: a parameter or the body cannot be used; the answer says why.",
    Refusal.NO_SUCH_PATH: "404: no protocol has the path.",
    Refusal.METHOD_NOT_ALLOWED: "405: the path has other methods.",
    Refusal.BODY_TOO_LARGE: "413: the body is larger than `connections.max_body_bytes`.",
    Refusal.NOT_HTTP: "400: what came is no request of HTTP/1.1, or too many of them at once.",
    Refusal.HEAD_TOO_LARGE: "431: the head is larger than `connections.max_head_bytes`.",
    Refusal.TOO_MANY_REQUESTS: (
        "429: the device asks more often than `connections.requests_per_second`."
    ),
    Refusal.TOO_MANY_DOWNLOADS: (
        "429: `connections.max_downloads_per_device` of the device are under way."
    ),
    Refusal.TOO_MANY_REFUSALS: (
        "429: the address had more requests refused than `connections.refusals_per_second`."
    ),
    Refusal.ARTIFACT_LOST: "404: the stored artifact is damaged, and fetched again.",
    Refusal.NO_CERTIFICATE: "401: no client certificate came with the connection or the request.",
    Refusal.CERTIFICATE_UNREADABLE: "401: the client certificate cannot be read.",
    Refusal.CERTIFICATE_EXPIRED: "401: the client certificate is not valid at this time.",
    Refusal.CERTIFICATE_NOT_ACCEPTED: (
        "401: the connection's client certificate is not accepted (any more): it expired, or its "
        "authority or a revocation list changed. `otaflux_tls_refused` says which."
    ),
    Refusal.CERTIFICATE_NAMES_NO_DEVICE: (
        "401: not exactly one name of the certificate matches `identity.certificate_pattern`."
    ),
    Refusal.UNTRUSTED_PEER: (
        "401: the connection comes from no address of `identity.trusted_peers`, so that what it "
        "forwards is not believed."
    ),
    Refusal.DUPLICATE_HEADER: "401: a header that names the device came more than once.",
    Refusal.MALFORMED_HEADER: "401: a header that names the device is not of its form.",
    Refusal.NOT_VERIFIED: "401: the proxy did not verify the certificate (`ssl-client-verify`).",
    Refusal.NO_TOKEN: "401: no token came with the request.",
    Refusal.TOKEN_UNKNOWN: "401: the token is none of `identity.tokens`.",
    Refusal.TOKEN_EXPIRED: "401: the token's time is over.",
    Refusal.OTHER_NAMESPACE: (
        "403: the path's or the identity's namespace is not the one that the device may use."
    ),
    Refusal.OTHER_DEVICE: "403: the identity is not that of the device that the request names.",
}


class Refusals:
    """Counts refusals, and logs them: at most one line each second for each reason.

    On the server's event loop only.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lines: Lines[Refusal] = Lines(self._write)
        self._statuses: dict[Refusal, int] = {}

    def note(self, status: int, reason: Refusal, peer: str) -> None:
        """Notes one refused request of the address `peer`."""
        self._metrics.refused(status, reason)
        self._statuses[reason] = status
        self._lines.note(reason, peer)

    def _write(self, reason: Refusal, peer: str, count: int) -> None:
        status = self._statuses[reason]
        tell = log.warning if status in (401, 403) else log.info
        tell("request refused", status=status, reason=reason.value, peer=peer, count=count)


def peer(scope: MutableMapping[str, Any]) -> str:
    """The address at the other end of the request's connection; empty: it has none."""
    client = scope.get("client")
    return client[0] if client else ""
