"""Where manifests and blobs come from: one protocol, two implementations."""

from __future__ import annotations

from typing import Protocol

from .blobs import BlobStream
from .manifests import Descriptor, Manifest
from .references import Repository


class Source(Protocol):
    """A registry (`RegistryClient`) or an image layout on disk (`ImageLayout`).

    All methods raise only OciError, and ValueError for an offset outside the blob.
    """

    async def manifest(self, repository: Repository, reference: str) -> Manifest:
        """The manifest under a tag or `sha256:…`; its raw body is hashed and checked."""
        ...

    async def digest(self, repository: Repository, tag: str) -> str:
        """What a tag is said to point to now, as cheaply as the source can tell.

        To see that nothing changed; only `manifest` checks what is said.
        """
        ...

    async def tags(self, repository: Repository) -> list[str]:
        """All tags, in no particular order, each once."""
        ...

    async def referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        """The manifests whose `subject` is this one, each once, in no particular order.

        `artifact_type` is None where nobody vouches for it: look into the manifest then.
        """
        ...

    def blob(
        self, repository: Repository, descriptor: Descriptor, *, offset: int = 0
    ) -> BlobStream:
        """The bytes from `offset` on, checked as `blobs.BlobStream` and `Verification` say."""
        ...
