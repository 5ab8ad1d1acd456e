"""Artifacts on disk, by the digest of their bytes; what is in the store can be served.

    <directory>/sha256/<hex>         the bytes
    <directory>/sha256/<hex>.json    size and the other hashes
    <directory>/incoming/…           what is being written; emptied at start

A blob counts once both files are there, which both come by rename, the second one last.
"""

import asyncio
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import AsyncIterable, Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import structlog

from otaflux_server.metrics import Metrics
from otaflux_server.policy_files import sync_directory, write_file
from otaflux_server.settings import ArtifactSettings

log = structlog.get_logger(__name__)

_HEX = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BUFFER = 1024 * 1024


class ArtifactError(Exception):
    """An artifact could not be stored; `reason` is one CamelCase word."""

    reason: ClassVar[str] = "ArtifactError"


class ArtifactTooLarge(ArtifactError):
    """It is larger than OTAFLUX_ARTIFACTS__MAX_ARTIFACT_BYTES allows."""

    reason = "ArtifactTooLarge"


class ArtifactMismatch(ArtifactError):
    """The bytes are not those that the digest and size announce."""

    reason = "DigestMismatch"


class StorageFull(ArtifactError):
    """It does not fit on the disk, or would leave less than OTAFLUX_ARTIFACTS__FREE_BYTES."""

    reason = "StorageFull"


class StorageFailed(ArtifactError):
    """The disk could not be written."""

    reason = "StorageFailed"


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What the store knows of its bytes: `digest` is `sha256:<hex>`, `size` in bytes."""

    digest: str
    size: int
    crc32: int
    md5: str
    sha1: str
    path: Path

    @property
    def sha256(self) -> str:
        """The digest's hexadecimal part."""
        return self.digest.removeprefix("sha256:")


class ArtifactStore:
    """Content-addressed and bounded. Not thread-safe: asked on the server's event loop only."""

    def __init__(self, directory: Path, settings: ArtifactSettings, metrics: Metrics) -> None:
        self._blobs = directory / "sha256"
        self._incoming = directory / "incoming"
        self._settings = settings
        self._metrics = metrics
        self._stored: dict[str, StoredArtifact] = {}  # least recently used first
        self._watchers: list[Callable[[], None]] = []
        self._disk = asyncio.Lock()
        self.generation = 0
        """Differs after each change of what is stored."""

    def load(self) -> None:
        """Takes up what is on disk. Whatever is not whole is deleted, to be fetched again.

        Raises:
            OSError: the directory cannot be read or written.
        """
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._blobs.mkdir(parents=True, exist_ok=True)
        found = []
        for path in self._blobs.iterdir():
            artifact = self._read(path) if _HEX.fullmatch(path.name) else None
            if artifact is not None:
                found.append((path.stat().st_mtime, artifact))
            elif not (path.suffix == ".json" and path.with_suffix("").exists()):
                log.warning("stored artifact is not whole, deleted", path=str(path))
                path.unlink(missing_ok=True)
        for _, artifact in sorted(found, key=lambda item: (item[0], item[1].digest)):
            self._stored[artifact.digest] = artifact
        self._change()

    def _read(self, path: Path) -> StoredArtifact | None:
        try:
            facts = json.loads(path.with_suffix(".json").read_text())
            artifact = StoredArtifact(
                digest=f"sha256:{path.name}",
                size=int(facts["size"]),
                crc32=int(facts["crc32"]),
                md5=str(facts["md5"]),
                sha1=str(facts["sha1"]),
                path=path,
            )
            whole = facts["sha256"] == path.name and path.stat().st_size == artifact.size
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return artifact if whole else None

    @property
    def digests(self) -> Set[str]:
        """The digests of what can be served; a live view."""
        return self._stored.keys()

    def get(self, digest: str) -> StoredArtifact | None:
        """The artifact with these bytes, if stored."""
        return self._stored.get(digest)

    def all(self) -> list[StoredArtifact]:
        """Everything stored, the least recently used first."""
        return list(self._stored.values())

    def used(self, digest: str) -> None:
        """Notes that the artifact was served, so that it is evicted later than others."""
        artifact = self._stored.pop(digest, None)
        if artifact is not None:
            self._stored[digest] = artifact

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called after each change of what is stored."""
        self._watchers.append(watcher)

    async def add(self, digest: str, size: int, parts: AsyncIterable[bytes]) -> StoredArtifact:
        """Stores the bytes as they come, if they are those of `digest`, `size` of them.

        Raises:
            ArtifactTooLarge: over the limit; nothing was read.
            ArtifactMismatch: other bytes; nothing stays.
            StorageFull: they do not fit on the disk.
            StorageFailed: the disk cannot be written.
            Whatever `parts` raises.
        """
        if size > self._settings.max_artifact_bytes:
            raise ArtifactTooLarge(
                f"the artifact has {size} bytes, the limit is {self._settings.max_artifact_bytes}: "
                "raise OTAFLUX_ARTIFACTS__MAX_ARTIFACT_BYTES if that is meant to be"
            )
        try:
            return await self._add(digest, size, parts)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull("no space left on the disk: free some or enlarge it") from None
            raise StorageFailed(
                f"the artifact cannot be written: {error.strerror or type(error).__name__}"
            ) from error

    async def _add(self, digest: str, size: int, parts: AsyncIterable[bytes]) -> StoredArtifact:
        free = await self._free()
        if free - size < self._settings.free_bytes:
            raise StorageFull(
                f"{size} bytes do not fit: {free} bytes are free on the disk, of which "
                f"{self._settings.free_bytes} are kept free"
            )
        handle, name = tempfile.mkstemp(dir=self._incoming)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                hashes = _Hashes(file)
                buffer = bytearray()
                async for part in parts:
                    buffer += part
                    if hashes.size + len(buffer) > size:
                        raise ArtifactMismatch(f"more bytes came than the {size} announced")
                    if len(buffer) >= _BUFFER:
                        full, buffer = buffer, bytearray()
                        await asyncio.to_thread(hashes.write, full)
                await asyncio.to_thread(hashes.finish, buffer)
            if hashes.size != size:
                raise ArtifactMismatch(f"{hashes.size} bytes came instead of the {size} announced")
            if f"sha256:{hashes.sha256.hexdigest()}" != digest:
                raise ArtifactMismatch(f"the bytes that came are not those of {digest}")
            artifact = StoredArtifact(
                digest=digest,
                size=size,
                crc32=hashes.crc32,
                md5=hashes.md5.hexdigest(),
                sha1=hashes.sha1.hexdigest(),
                path=self._blobs / digest.removeprefix("sha256:"),
            )
            async with self._disk:
                await asyncio.to_thread(self._place, temporary, artifact)
                self._stored[digest] = artifact
        finally:
            temporary.unlink(missing_ok=True)
        self._change()
        return artifact

    def _place(self, temporary: Path, artifact: StoredArtifact) -> None:
        temporary.replace(artifact.path)
        sync_directory(self._blobs)
        facts = {
            "size": artifact.size,
            "sha256": artifact.sha256,
            "crc32": artifact.crc32,
            "md5": artifact.md5,
            "sha1": artifact.sha1,
        }
        write_file(artifact.path.with_suffix(".json"), json.dumps(facts).encode())

    async def evict(self, keep: Callable[[str], bool], *, room: int = 0) -> None:
        """Deletes what `keep` does not want, the least recently used first, down to the limit.

        `room`: and until so many bytes more would fit on the disk. `keep` is asked for each digest
        right before it goes.
        """
        async with self._disk:
            excess = sum(artifact.size for artifact in self.all()) - self._settings.max_bytes
            if room:
                excess = max(excess, room + self._settings.free_bytes - await self._free())
            for artifact in self.all():
                if excess <= 0:
                    break
                if artifact.digest in self._stored and not keep(artifact.digest):
                    del self._stored[artifact.digest]
                    self._change()
                    await asyncio.to_thread(self._delete, artifact)
                    excess -= artifact.size
                    log.info("artifact evicted", digest=artifact.digest, size=artifact.size)

    async def _free(self) -> int:
        return (await asyncio.to_thread(shutil.disk_usage, self._incoming)).free

    async def discard(self, digest: str) -> None:
        """Deletes an artifact whose bytes turned out to be gone or cut."""
        async with self._disk:
            artifact = self._stored.pop(digest, None)
            if artifact is not None:
                log.error("stored artifact is damaged, fetching it again", digest=digest)
                await asyncio.to_thread(self._delete, artifact)
        self._change()

    @staticmethod
    def _delete(artifact: StoredArtifact) -> None:
        # The sidecar first: bytes without one do not count.
        with suppress(OSError):
            artifact.path.with_suffix(".json").unlink(missing_ok=True)
            artifact.path.unlink(missing_ok=True)

    def _change(self) -> None:
        self.generation += 1
        self._metrics.artifact_bytes.set(sum(artifact.size for artifact in self.all()))
        for watcher in self._watchers:
            watcher()


class _Hashes:
    """Writes bytes and hashes them on the way, in whichever thread calls."""

    def __init__(self, file: BinaryIO | Any) -> None:
        self._file = file
        self.size = 0
        self.crc32 = 0
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha1 = hashlib.sha1(usedforsecurity=False)

    def write(self, buffer: bytearray) -> None:
        view = memoryview(buffer)
        while view:
            written = self._file.write(view)
            view = view[written:]
        self.size += len(buffer)
        self.crc32 = zlib.crc32(buffer, self.crc32)
        for algorithm in (self.sha256, self.md5, self.sha1):
            algorithm.update(buffer)

    def finish(self, buffer: bytearray) -> None:
        self.write(buffer)
        os.fsync(self._file.fileno())
