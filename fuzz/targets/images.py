"""What comes from registries and Secrets: manifests, signatures, archives, references, logins."""

import base64
import contextlib
import json
from string import ascii_lowercase, digits

from fuzz.targets.texts import encodable, text
from otaflux_oci.credentials import Basic, Credentials
from otaflux_oci.errors import (
    AmbiguousLayers,
    InvalidArchive,
    InvalidCredentials,
    InvalidReference,
    KeySecretInvalid,
    KeyUnsupported,
    NoFirmwareLayer,
    TooLarge,
    UnsupportedManifest,
    VersionMismatch,
)
from otaflux_oci.layouts import firmware_layer
from otaflux_oci.manifests import (
    OCI_INDEX,
    OCI_MANIFEST,
    VERSION_ANNOTATION,
    digest_of,
    parse_manifest,
)
from otaflux_oci.references import Repository, is_digest, is_tag
from otaflux_oci.resolving import release_version
from otaflux_oci.signatures.contents import Judgement, judge_bundle, judge_legacy
from otaflux_oci.signatures.keys import PublicKey
from otaflux_oci.tars import TarLimits, TarReader

_DIGEST = "sha256:" + "a" * 64
_REPOSITORY = Repository("registry.example.com", "firmware/thermostat")
_LIMITS = TarLimits(file_bytes=1 << 16, members=16, header_bytes=1 << 12)
_TAR_ERRORS = (InvalidArchive, TooLarge, NoFirmwareLayer, AmbiguousLayers)
_KEY = PublicKey.load(
    "cosign.pub",
    b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEF3sFPZqScRGVAf+2pupfF/PJwf3Z
txxu9G8HDlvz7AthDjxgKP7lLjN5LwtwgCDhjmgII5pKApvM02ccQrjL4A==
-----END PUBLIC KEY-----
""",
)


def manifests(data: bytes) -> None:
    """The manifest parser, and what is read from a manifest: layer and version."""
    for content_type in (OCI_MANIFEST, OCI_INDEX):
        try:
            manifest = parse_manifest(
                data, content_type=content_type, expected_digest=digest_of(data), where="It"
            )
        except UnsupportedManifest as error:
            encodable(str(error))
            continue
        assert manifest.digest == digest_of(data)
        assert manifest.is_index == (content_type == OCI_INDEX)
        found = [*manifest.layers, *manifest.manifests]
        found += [known for known in (manifest.config, manifest.subject) if known is not None]
        assert all(is_digest(item.digest) and item.size >= 0 for item in found)
        with contextlib.suppress(UnsupportedManifest, NoFirmwareLayer, AmbiguousLayers):
            assert firmware_layer(manifest) in manifest.layers
        with contextlib.suppress(UnsupportedManifest, VersionMismatch):
            annotation = manifest.annotations.get(VERSION_ANNOTATION)
            version = release_version("1.4.0", manifest.digest, annotation, "")
            assert 0 < len(version) <= 128
            assert version.isascii()
            assert version.isprintable()


def signatures(data: bytes) -> None:
    """Bundles, legacy signatures and keys. None of them is one by a key that signed nothing."""
    first, _, rest = data.partition(b"\0")
    for judgement in (
        judge_bundle(data, _DIGEST, [_KEY]),
        judge_legacy(rest, text(first), _DIGEST, [_KEY]),
        judge_legacy(data, base64.b64encode(data).decode(), _DIGEST, [_KEY]),
    ):
        _refused(judgement)
    assert not _KEY.signed(rest, first)
    try:
        key = PublicKey.load("other.pub", data)
    except (KeySecretInvalid, KeyUnsupported) as error:
        encodable(str(error))
    else:
        assert not key.signed(b"", data)


def _refused(judgement: Judgement) -> None:
    assert judgement.key is None
    assert judgement.fault is not None
    encodable(judgement.why)


def archives(data: bytes) -> None:
    """The reader of tar archives: in one part and in small ones it sees the same file."""
    whole = _unpacked(data, len(data) or 1)
    for size in (1, 100, 513):
        parts = _unpacked(data, size)
        # Only which of several faults is told first may differ.
        assert parts == whole or (parts is None and whole is None)


def _unpacked(data: bytes, size: int) -> tuple[str, bytes] | None:
    reader = TarReader("", _LIMITS, where="It")
    found = b""
    try:
        for start in range(0, len(data), size):
            found += reader.feed(data[start : start + size])
        path = reader.finish()
    except _TAR_ERRORS as error:
        encodable(str(error))
        return None
    assert len(found) <= _LIMITS.file_bytes
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    return path, found


def references(data: bytes) -> None:
    """Repositories, tags and digests; what is accepted is normal, and safe in a path."""
    given = text(data)
    for known in (is_tag(given), is_digest(given)):
        assert not known or (given.isascii() and given.isprintable() and "/" not in given)
    try:
        repository = Repository.parse(given)
    except InvalidReference as error:
        encodable(str(error))
        return
    assert Repository.parse(str(repository)) == repository
    assert set(repository.name) <= set(ascii_lowercase + digits + "._-/")
    assert not {"", ".", ".."} & set(repository.name.split("/"))
    assert not set(repository.registry) & set("/@?#\\ \r\n")


def pull_secrets(data: bytes) -> None:
    """A `.dockerconfigjson`; no secret of it is ever shown."""
    try:
        credentials = Credentials.from_dockerconfigjson(data)
    except InvalidCredentials as error:
        _hides(str(error), data)
        return
    _hides(repr(credentials), data)
    for registry in ("registry.example.com", "docker.io", "registry.example.com:5000"):
        found = credentials.for_repository(Repository(registry, "firmware/thermostat"))
        _hides(repr(found), data)
        if isinstance(found, Basic):
            assert found.header.isascii()
            assert found.header.isprintable()


def _hides(shown: str, data: bytes) -> None:
    """Every password of the document that is long enough to be told from other words."""
    try:
        auths = json.loads(data)["auths"].values()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return
    for auth in auths:
        for name in ("password", "auth", "identitytoken"):
            secret = auth.get(name) if isinstance(auth, dict) else None
            if isinstance(secret, str) and len(secret) > 12:
                # As a key (the host) it is no secret.
                assert secret not in shown or secret.lower() in "".join(json.loads(data)["auths"])
