"""The firmware as a file in a tar archive: the one layer of an image built `FROM scratch`.

The layer is read as it comes and never kept. Its own digest is checked like that of any blob; the
bytes may be trusted once the iteration has ended without an exception, as with `BlobStream`.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from .blobs import BlobStream, require_size
from .errors import InvalidArchive, RegistryUnreachable, TooLarge
from .layouts import is_gzip
from .limits import KIB, MIB, Limits
from .manifests import Descriptor
from .references import Repository
from .sources import Source
from .tars import TarLimits, TarReader

_STEP_BYTES = 256 * KIB
_ALWAYS_BYTES = 16 * MIB
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class ArchivedFile:
    """A file in an archive: `digest` is that of its own bytes, `size` their number."""

    path: str
    digest: str
    size: int


async def find_file(
    source: Source,
    repository: Repository,
    layer: Descriptor,
    *,
    path: str = "",
    limits: Limits | None = None,
) -> ArchivedFile:
    """Reads the archive through: the file at `path`, or, if that is empty, the only one.

    Raises OciError: InvalidArchive, TooLarge, NoFirmwareLayer, AmbiguousLayers, and what the
    source raises.
    """
    limits = limits or Limits()
    reader = _reader(repository, layer, path, limits)
    hasher, size = hashlib.sha256(), 0
    try:
        async with (
            asyncio.timeout(limits.archive_seconds),
            _stream(source, repository, layer, reader, limits) as parts,
        ):
            async for part in parts:
                hasher.update(part)
                size += len(part)
    except TimeoutError:
        raise RegistryUnreachable(
            f"{_where(repository, layer)} did not come within {limits.archive_seconds:.0f} s."
        ) from None
    return ArchivedFile(reader.finish(), "sha256:" + hasher.hexdigest(), size)


def archived_file(
    source: Source,
    repository: Repository,
    layer: Descriptor,
    path: str,
    *,
    limits: Limits | None = None,
) -> BlobStream:
    """The bytes of the file at `path`. Raises as `find_file`.

    A transfer that broke off cannot go on at an offset: begin again.
    """
    limits = limits or Limits()
    reader = _reader(repository, layer, path, limits)
    return _stream(source, repository, layer, reader, limits)


def _where(repository: Repository, layer: Descriptor) -> str:
    return f"The layer {repository}@{layer.digest}"


def _reader(repository: Repository, layer: Descriptor, path: str, limits: Limits) -> TarReader:
    where = _where(repository, layer)
    require_size(layer, limits.blob_bytes, where=where)
    tar_limits = TarLimits(
        file_bytes=limits.blob_bytes,
        members=limits.archive_members,
        header_bytes=limits.archive_header_bytes,
    )
    return TarReader(path, tar_limits, where=where)


def _stream(
    source: Source, repository: Repository, layer: Descriptor, reader: TarReader, limits: Limits
) -> BlobStream:
    where = _where(repository, layer)
    unpacking = _Unpacking(reader, layer, limits, where)
    return BlobStream(_parts(source.blob(repository, layer), unpacking, reader))


async def _parts(
    blob: BlobStream, unpacking: _Unpacking, reader: TarReader
) -> AsyncGenerator[bytes, None]:
    async with blob as packed:
        try:
            async for part in packed:
                unpacking.take(part)
                while not unpacking.hungry:
                    # In a thread: it is work, and there may be a lot that nobody asks for.
                    if found := await asyncio.to_thread(unpacking.step):
                        yield found
        except InvalidArchive:
            # If the bytes are not even those of the digest, that is what has to be said.
            async for _ in packed:
                pass
            raise
    unpacking.finish()
    reader.finish()


class _Unpacking:
    """Decompresses in bounded steps, and counts what comes out."""

    def __init__(self, reader: TarReader, layer: Descriptor, limits: Limits, where: str) -> None:
        self._reader = reader
        self._gzip = zlib.decompressobj(_GZIP) if is_gzip(layer) else None
        self._room = min(limits.blob_bytes, max(_ALWAYS_BYTES, limits.archive_ratio * layer.size))
        self._where = where
        self._packed = b""
        self._unpacked = 0
        self.hungry = True
        """Nothing more comes out without another part."""

    def take(self, part: bytes) -> None:
        self._packed, self.hungry = part, False

    def step(self) -> bytes:
        """The next bytes of the file, if any."""
        if self._gzip is None:
            content, self._packed, self.hungry = self._packed, b"", True
        else:
            content = self._inflate(self._gzip)
        self._unpacked += len(content)
        require_room(self._unpacked, self._room, self._where)
        return self._reader.feed(content)

    def _inflate(self, gzip: zlib._Decompress) -> bytes:
        if gzip.eof and self._packed:
            raise InvalidArchive(f"{self._where} goes on after the end of its gzip stream.")
        try:
            content = gzip.decompress(self._packed, _STEP_BYTES)
        except zlib.error:
            raise InvalidArchive(f"{self._where} is not gzip, or is damaged.") from None
        self._packed = gzip.unused_data or gzip.unconsumed_tail
        self.hungry = not self._packed
        return content

    def finish(self) -> None:
        if self._gzip is not None and not self._gzip.eof:
            raise InvalidArchive(f"{self._where} is cut off: its gzip stream does not end.")


def require_room(unpacked: int, room: int, where: str) -> None:
    """Raises TooLarge for an archive that unpacks to more than it may."""
    if unpacked > room:
        raise TooLarge(
            f"{where} unpacks to more than {room} bytes, the limit for its size. Build it with "
            "the firmware alone."
        )
