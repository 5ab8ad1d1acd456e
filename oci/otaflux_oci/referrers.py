"""What refers to a manifest: its signatures, attestations, and anything else (`subject`).

Source: distribution-spec v1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

from dataclasses import replace

from .errors import RegistryError, UnsupportedManifest
from .manifests import Descriptor, Manifest, parse_manifest


def referrers_tag(digest: str) -> str:
    """The tag under which clients list referrers where the registry does not."""
    return digest.replace(":", "-")


def by_api(body: bytes, content_type: str | None, where: str) -> tuple[Descriptor, ...]:
    """One page of the referrers API, an image index. Raises RegistryError."""
    try:
        page = parse_manifest(body, content_type=content_type, expected_digest=None, where=where)
    except UnsupportedManifest as error:
        raise RegistryError(str(error)) from error
    if not page.is_index:
        raise RegistryError(f"{where} is not an image index, as the specification says.")
    return page.manifests


def by_tag(index: Manifest) -> list[Descriptor]:
    """The entries under that tag, without what clients wrote about them: it need not be so."""
    return [replace(known, artifact_type=None, annotations={}) for known in index.manifests]
