"""Firmware from OCI registries and image layouts: resolve a reference, stream a blob.

    async with RegistryClient(credentials=…) as source:
        release = await resolve(source, Repository.parse("registry.example.com/fw"), tag="1.4.0")
        async with source.blob(release.repository, release.layer) as parts:
            async for part in parts: …

Everything that can go wrong is an `OciError`; `errors` draws the tree.
"""

from .blobs import BlobStream
from .credentials import Basic, Credentials, IdentityToken, Tls
from .errors import (
    AmbiguousLayers,
    ContentError,
    DigestMismatch,
    Forbidden,
    InvalidCredentials,
    InvalidReference,
    ManifestNotFound,
    NoFirmwareLayer,
    NoMatchingVersion,
    NotFound,
    OciError,
    RateLimited,
    RealmRefused,
    RegistryError,
    RegistryUnreachable,
    SelectionError,
    TlsFailed,
    TooLarge,
    Unauthorized,
    UnsupportedManifest,
    VersionMismatch,
)
from .image_layouts import FIRMWARE_ARTIFACT_TYPE, FIRMWARE_MEDIA_TYPE, ImageLayout
from .layouts import firmware_layer
from .limits import Limits
from .manifests import Descriptor, Manifest
from .references import Repository
from .registries import RegistryClient
from .resolving import Resolved, resolve
from .sources import Source

__all__ = [
    "FIRMWARE_ARTIFACT_TYPE",
    "FIRMWARE_MEDIA_TYPE",
    "AmbiguousLayers",
    "Basic",
    "BlobStream",
    "ContentError",
    "Credentials",
    "Descriptor",
    "DigestMismatch",
    "Forbidden",
    "IdentityToken",
    "ImageLayout",
    "InvalidCredentials",
    "InvalidReference",
    "Limits",
    "Manifest",
    "ManifestNotFound",
    "NoFirmwareLayer",
    "NoMatchingVersion",
    "NotFound",
    "OciError",
    "RateLimited",
    "RealmRefused",
    "RegistryClient",
    "RegistryError",
    "RegistryUnreachable",
    "Repository",
    "Resolved",
    "SelectionError",
    "Source",
    "Tls",
    "TlsFailed",
    "TooLarge",
    "Unauthorized",
    "UnsupportedManifest",
    "VersionMismatch",
    "firmware_layer",
    "resolve",
]
