"""Manifests and descriptors, read strictly.

Shapes: OCI image-spec v1.1 (manifest.md, image-index.md, descriptor.md) and Docker's
"Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import DigestMismatch, UnsupportedManifest
from .references import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST}) | INDEX_TYPES

_MEDIA_TYPE_LENGTH = 255  # RFC 6838, section 4.2
_LARGEST = 2**53 - 1  # what JSON numbers hold without loss (RFC 7493)

EMPTY_MEDIA_TYPE = "application/vnd.oci.empty.v1+json"

VERSION_ANNOTATION = "org.opencontainers.image.version"
TITLE_ANNOTATION = "org.opencontainers.image.title"
REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
PRODUCT_ANNOTATION = "io.otaflux.product"
MODELS_ANNOTATION = "io.otaflux.models"
MIN_VERSION_ANNOTATION = "io.otaflux.min-version"


@dataclass(frozen=True)
class Descriptor:
    """What names a blob or manifest. `size` in bytes; `digest` is always `sha256:<hex>`."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    platform: str = ""
    """`os/architecture` or `os/architecture/variant`, where an index says it."""

    @property
    def title(self) -> str:
        """The file name that `oras push` recorded, or an empty string."""
        return self.annotations.get(TITLE_ANNOTATION, "")


@dataclass(frozen=True)
class Manifest:
    """A manifest (config, layers) or an index (manifests). `digest` is that of the raw body.

    `artifact_type` is `artifactType`, else the media type of the config (oras-py writes
    only that); for a container image it is therefore the type of an image config.
    """

    digest: str
    media_type: str
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    """The manifest that this one says something about: its signature, or an SBOM of it."""

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def require_manifest_type(content_type: str | None, *, where: str) -> str:
    """The media type in a Content-Type header if we can read it, else UnsupportedManifest."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type not in MANIFEST_TYPES:
        shown = repr(media_type[:120]) if media_type else "no type"
        raise UnsupportedManifest(
            f"{where} is {shown}, which is not read here. Push the firmware as an OCI artifact, "
            "for instance with `oras push`."
        )
    return media_type


def parse_manifest(
    body: bytes, *, content_type: str | None, expected_digest: str | None, where: str
) -> Manifest:
    """The manifest in `body`, after checking that it is the one asked for.

    `expected_digest`: what was asked for or announced, None where nothing is known.
    `where`: words for messages. Raises DigestMismatch, UnsupportedManifest.
    """
    digest = digest_of(body)
    if expected_digest is not None and digest != expected_digest:
        raise DigestMismatch(
            f"{where} should be {expected_digest}, but its bytes are {digest}. "
            "The registry, or something between, changed it."
        )
    media_type = require_manifest_type(content_type, where=where)
    document = _document(body, where)
    if document.get("schemaVersion") != 2:
        raise UnsupportedManifest(f"{where} is not of schema version 2. Push it again.")
    stated = document.get("mediaType")
    if stated is not None and stated != media_type:
        raise UnsupportedManifest(
            f"{where} was sent as {media_type}, but calls itself {str(stated)[:120]!r}."
        )
    # Both readings in one body: what one client calls a manifest, another calls an index
    # (CVE-2021-41190).
    is_index = media_type in INDEX_TYPES
    if (is_index and ("layers" in document or "config" in document)) or (
        not is_index and "manifests" in document
    ):
        raise UnsupportedManifest(f"{where} is a manifest and an index at the same time.")

    config_value, subject = document.get("config"), document.get("subject")
    config = None if config_value is None else _descriptor(config_value, where)
    artifact_type = document.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise UnsupportedManifest(f"{where} has an artifactType that is not text.")
    return Manifest(
        digest=digest,
        media_type=media_type,
        artifact_type=artifact_type or (config.media_type if config else None),
        config=config,
        layers=_descriptors(document.get("layers"), where),
        annotations=_annotations(document.get("annotations"), where),
        manifests=_descriptors(document.get("manifests"), where),
        subject=None if subject is None else _descriptor(subject, where),
    )


def parse_json(body: bytes) -> Any:
    """JSON without duplicate keys (two readers could see two documents). Raises ValueError."""
    try:
        return json.loads(body, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _document(body: bytes, where: str) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError as error:
        raise UnsupportedManifest(f"{where} is not JSON as a manifest has to be.") from error
    if not isinstance(document, dict):
        raise UnsupportedManifest(f"{where} is not a JSON object.")
    return document


def _descriptors(value: Any, where: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnsupportedManifest(f"{where} has layers or manifests that are not a list.")
    return tuple(_descriptor(item, where) for item in value)


def _descriptor(value: Any, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise UnsupportedManifest(f"{where} has a descriptor that is not an object.")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    artifact_type = value.get("artifactType")
    if not isinstance(media_type, str) or not 0 < len(media_type) <= _MEDIA_TYPE_LENGTH:
        raise UnsupportedManifest(
            f"{where} has a descriptor without media type, or with one of more than "
            f"{_MEDIA_TYPE_LENGTH} characters."
        )
    if not isinstance(digest, str) or not is_digest(digest):
        raise UnsupportedManifest(f"{where} has a descriptor whose digest is not SHA-256.")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
        raise UnsupportedManifest(f"{where} has a descriptor whose size is not a number.")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise UnsupportedManifest(f"{where} has an artifactType that is not text.")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=_annotations(value.get("annotations"), where),
        artifact_type=artifact_type,
        platform=_platform(value.get("platform"), where),
    )


def _platform(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise UnsupportedManifest(f"{where} has a platform that is not an object.")
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts):
        raise UnsupportedManifest(f"{where} has a platform that is not text.")
    return "/".join(part for part in parts if part)


def _annotations(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UnsupportedManifest(f"{where} has annotations that are not text.")
    return dict(value)
