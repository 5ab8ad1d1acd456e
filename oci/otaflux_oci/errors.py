"""Every way in which reading a registry or an image layout can fail.

    OciError
    ├── InvalidReference        a repository, tag, digest or version range is not one
    ├── InvalidCredentials      a pull secret or a TLS secret cannot be used
    ├── RegistryError           the registry answered with something it should not
    │   ├── RegistryUnreachable     no connection, no answer in time, or it broke off (also 503)
    │   ├── TlsFailed               unknown CA, wrong name, expired, client certificate refused
    │   ├── RateLimited             429, or 503 with Retry-After; `retry_after` in seconds
    │   ├── AddressRefused          a host has no address that may be connected to
    │   ├── RealmRefused            its token server is not one that may get the credentials
    │   ├── Unauthorized            401
    │   ├── Forbidden               403
    │   └── NotFound                404: repository, blob
    │       └── ManifestNotFound        the tag or digest
    ├── ContentError            what came is not what it has to be
    │   ├── DigestMismatch          bytes, size or announced digest contradict each other
    │   ├── TooLarge                more than the limits allow
    │   ├── UnsupportedManifest     schema 1, unknown type, not a manifest at all
    │   ├── InvalidArchive          damaged, or with links, devices or paths that lead out
    │   └── AnnotationInvalid       one of ours says nothing that can be acted upon
    ├── SignatureError          the release is not signed as it has to be
    │   ├── SignatureMissing
    │   ├── SignatureInvalid        it cannot be read, or does not say what it has to
    │   ├── SignatureOfOtherDigest  one of the keys signed, but other content
    │   ├── KeyMismatch             none of the keys signed
    │   ├── KeySecretInvalid        the public keys are none, or too many
    │   └── KeyUnsupported          a public key is of a kind that is not read
    └── SelectionError          nothing, or too much, fits what was asked for
        ├── AmbiguousLayers
        ├── NoFirmwareLayer
        ├── VersionMismatch         a semantic-version tag and the version annotation disagree
        └── NoMatchingVersion       no tag lies in the range

`reason` is the CamelCase reason of a Kubernetes condition. `retryable` says that asking
again in seconds or minutes may succeed although nobody did anything; all else waits for
somebody (new tag, new Secret, changed spec) and is worth a look once per interval.

Messages say what to do. They hold registry, repository, tag and digest; never a secret, a
header or the query of a URL (a signed URL is a secret).
"""

from __future__ import annotations

from typing import ClassVar


class OciError(Exception):
    """Base of everything this package raises on purpose."""

    reason: ClassVar[str] = "OciError"
    retryable: bool = False


class InvalidReference(OciError):
    reason = "InvalidReference"


class InvalidCredentials(OciError):
    reason = "InvalidCredentials"


class RegistryError(OciError):
    """Also raised itself, for answers without a class of their own (5xx, nonsense)."""

    reason = "RegistryError"

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable


class RegistryUnreachable(RegistryError):
    reason = "RegistryUnreachable"
    retryable = True


class TlsFailed(RegistryError):
    reason = "TlsFailed"


class RateLimited(RegistryError):
    """`retry_after`: seconds the registry asked for, capped; None when it named none."""

    reason = "RateLimited"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AddressRefused(RegistryError):
    reason = "AddressRefused"


class RealmRefused(RegistryError):
    reason = "RealmRefused"


class Unauthorized(RegistryError):
    reason = "Unauthorized"


class Forbidden(RegistryError):
    reason = "Forbidden"


class NotFound(RegistryError):
    reason = "NotFound"


class ManifestNotFound(NotFound):
    reason = "ManifestNotFound"


class ContentError(OciError):
    reason = "ContentError"


class DigestMismatch(ContentError):
    # A proxy or a half-written cache heals by itself; the same bytes from a real tampering
    # are refused again.
    reason = "DigestMismatch"
    retryable = True


class TooLarge(ContentError):
    reason = "TooLarge"


class UnsupportedManifest(ContentError):
    reason = "UnsupportedManifest"


class InvalidArchive(ContentError):
    reason = "InvalidArchive"


class AnnotationInvalid(ContentError):
    reason = "AnnotationInvalid"


class SignatureError(OciError):
    reason = "SignatureError"


class SignatureMissing(SignatureError):
    reason = "SignatureMissing"


class SignatureInvalid(SignatureError):
    reason = "SignatureInvalid"


class SignatureOfOtherDigest(SignatureError):
    reason = "SignatureOfOtherDigest"


class KeyMismatch(SignatureError):
    reason = "KeyMismatch"


class KeySecretInvalid(SignatureError):
    reason = "KeySecretInvalid"


class KeyUnsupported(SignatureError):
    reason = "KeyUnsupported"


class SelectionError(OciError):
    reason = "SelectionError"


class AmbiguousLayers(SelectionError):
    reason = "AmbiguousLayers"


class NoFirmwareLayer(SelectionError):
    reason = "NoFirmwareLayer"


class VersionMismatch(SelectionError):
    reason = "VersionMismatch"


class NoMatchingVersion(SelectionError):
    reason = "NoMatchingVersion"
