"""Firmware from OCI registries and image layouts: resolve a reference, stream a blob.

    async with RegistryClient(credentials=…) as source:
        release = await resolve(source, Repository.parse("registry.example.com/fw"), tag="1.4.0")
        async with source.blob(release.repository, release.layer) as parts:
            async for part in parts: …

Everything that can go wrong is an `OciError`; `errors` draws the tree.
"""

from .archives import ArchivedFile, archived_file, find_file
from .blobs import BlobStream
from .credentials import Basic, Credentials, IdentityToken, Tls
from .errors import (
    AddressRefused,
    AmbiguousLayers,
    AnnotationInvalid,
    ContentError,
    DigestMismatch,
    Forbidden,
    InvalidArchive,
    InvalidCredentials,
    InvalidReference,
    KeyMismatch,
    KeySecretInvalid,
    KeyUnsupported,
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
    SignatureError,
    SignatureInvalid,
    SignatureMissing,
    SignatureOfOtherDigest,
    TlsFailed,
    TooLarge,
    Unauthorized,
    UnsupportedManifest,
    VersionMismatch,
)
from .image_layouts import FIRMWARE_ARTIFACT_TYPE, FIRMWARE_MEDIA_TYPE, ImageLayout
from .layouts import firmware_layer, is_archive
from .limits import Limits
from .manifests import Descriptor, Manifest
from .networks import RegistrySettings
from .references import Repository
from .registries import RegistryClient
from .resolving import Resolved, resolve
from .sources import Source

__all__ = [
    "FIRMWARE_ARTIFACT_TYPE",
    "FIRMWARE_MEDIA_TYPE",
    "AddressRefused",
    "AmbiguousLayers",
    "AnnotationInvalid",
    "ArchivedFile",
    "Basic",
    "BlobStream",
    "ContentError",
    "Credentials",
    "Descriptor",
    "DigestMismatch",
    "Forbidden",
    "IdentityToken",
    "ImageLayout",
    "InvalidArchive",
    "InvalidCredentials",
    "InvalidReference",
    "KeyMismatch",
    "KeySecretInvalid",
    "KeyUnsupported",
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
    "RegistrySettings",
    "RegistryUnreachable",
    "Repository",
    "Resolved",
    "SelectionError",
    "SignatureError",
    "SignatureInvalid",
    "SignatureMissing",
    "SignatureOfOtherDigest",
    "Source",
    "Tls",
    "TlsFailed",
    "TooLarge",
    "Unauthorized",
    "UnsupportedManifest",
    "VersionMismatch",
    "archived_file",
    "find_file",
    "firmware_layer",
    "is_archive",
    "resolve",
]
