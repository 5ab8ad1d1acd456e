"""Bytes of a blob, checked against their descriptor while they pass."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

from .errors import DigestMismatch, TooLarge
from .manifests import Descriptor


class BlobStream:
    """`async with source.blob(…) as parts: async for part in parts: …`.

    The bytes may be trusted once the iteration has ended without an exception, not before:
    a digest is known only at the end. Write to a temporary file and rename it then.
    Without `async with`, iterate to the end, or a connection stays open for a while.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def __aenter__(self) -> BlobStream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._parts.aclose()


class Verification:
    """Counts and hashes a blob's bytes. Raises DigestMismatch at the first byte too many.

    Begun at an `offset` it cannot know the digest and checks the size alone.
    """

    def __init__(self, descriptor: Descriptor, *, offset: int, where: str) -> None:
        if not 0 <= offset <= descriptor.size:
            raise ValueError(f"offset {offset} is outside a blob of {descriptor.size} bytes")
        self.received = offset
        self._descriptor = descriptor
        self._where = where
        self._hash = hashlib.sha256() if offset == 0 else None

    @property
    def complete(self) -> bool:
        return self.received == self._descriptor.size

    def update(self, part: bytes) -> None:
        self.received += len(part)
        if self.received > self._descriptor.size:
            raise DigestMismatch(
                f"{self._where} has more bytes than the {self._descriptor.size} of its descriptor. "
                "The registry, or something between, changed it."
            )
        if self._hash is not None:
            self._hash.update(part)

    def finish(self) -> None:
        """To be called when `complete`."""
        if self._hash is None:
            return
        digest = "sha256:" + self._hash.hexdigest()
        if digest != self._descriptor.digest:
            raise DigestMismatch(
                f"{self._where} should be {self._descriptor.digest}, but its bytes are {digest}. "
                "The registry, or something between, changed it."
            )


def require_size(descriptor: Descriptor, limit: int, *, where: str) -> None:
    """Raises TooLarge before a byte is asked for."""
    if descriptor.size > limit:
        raise TooLarge(f"{where} has {descriptor.size} bytes; the limit is {limit}.")
