"""An OCI image layout directory as a source, and how a firmware file gets into it.

Source: image-spec v1.1, image-layout.md. One layout holds any number of repositories: the
annotation `org.opencontainers.image.ref.name` of an entry in index.json is
`<registry>/<name>:<tag>`. Other tools write a bare `<tag>` there; such entries belong to
the one repository that the constructor names, and to none if it names none.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .blobs import BlobStream, Verification, require_size
from .errors import (
    ContentError,
    DigestMismatch,
    InvalidReference,
    ManifestNotFound,
    NotFound,
    RegistryError,
    TooLarge,
)
from .limits import KIB, Limits
from .manifests import (
    EMPTY_MEDIA_TYPE,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME_ANNOTATION,
    TITLE_ANNOTATION,
    VERSION_ANNOTATION,
    Descriptor,
    Manifest,
    parse_json,
    parse_manifest,
)
from .references import Repository, is_digest, is_tag, require_digest, require_tag
from .referrers import by_tag, referrers_tag
from .resolving import release_version

FIRMWARE_ARTIFACT_TYPE = "application/vnd.otaflux.firmware.v1"
FIRMWARE_MEDIA_TYPE = "application/vnd.otaflux.firmware.v1+binary"

_EMPTY = b"{}"
_PART_BYTES = 256 * KIB


class ImageLayout:
    """A `Source` on a directory. Files are read in threads; nothing is kept in memory.

    `repository`: the one that entries with a bare tag belong to.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        repository: Repository | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._path = Path(path)
        self._repository = repository
        self._limits = limits or Limits()

    async def manifest(self, repository: Repository, reference: str) -> Manifest:
        """By digest any manifest of the layout, also one whose tag has moved on."""
        return await asyncio.to_thread(self._manifest, repository, reference)

    async def digest(self, repository: Repository, tag: str) -> str:
        require_tag(tag)
        entry = await asyncio.to_thread(self._tagged, repository, tag)
        return str(entry["digest"])

    async def tags(self, repository: Repository) -> list[str]:
        entries = await asyncio.to_thread(self._entries)
        return list(
            dict.fromkeys(tag for owner, tag, _ in self._named(entries) if owner == repository)
        )

    async def referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        """Of whatever repository: manifests of the layout that are about this one."""
        return await asyncio.to_thread(self._referrers, repository, require_digest(digest))

    def blob(
        self, repository: Repository, descriptor: Descriptor, *, offset: int = 0
    ) -> BlobStream:
        require_digest(descriptor.digest)
        where = f"{repository}@{descriptor.digest}"
        require_size(descriptor, self._limits.blob_bytes, where=where)
        check = Verification(descriptor, offset=offset, where=where)
        return BlobStream(self._parts(descriptor, check, where))

    def add(
        self,
        repository: Repository,
        file: Path | str,
        *,
        version: str,
        tag: str = "",
        title: str = "",
        media_type: str = FIRMWARE_MEDIA_TYPE,
        annotations: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Puts a firmware file under `repository:tag` and returns its manifest.

        `tag`: by default the version (with `_` for `+`, which a tag cannot hold); it moves if
        it exists. `title`: by default the file's name. The same file, version and title give
        the same digest. Creates the layout where there is none. Blocks; safe against other
        processes that add at the same time. Raises OciError, and OSError of the disk.
        """
        tag = require_tag(tag or version.replace("+", "_"))
        file = Path(file)
        release_version(tag, str(file), version, "")
        with self._locked():
            layer = self._store_file(file)
            config = self._store(_EMPTY)
            body = _encode(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "artifactType": FIRMWARE_ARTIFACT_TYPE,
                    "config": {"mediaType": EMPTY_MEDIA_TYPE, **config},
                    "layers": [
                        {
                            "mediaType": media_type,
                            **layer,
                            "annotations": {TITLE_ANNOTATION: title or file.name},
                        }
                    ],
                    "annotations": {**(annotations or {}), VERSION_ANNOTATION: version},
                }
            )
            manifest = parse_manifest(
                body, content_type=OCI_MANIFEST, expected_digest=None, where="The new manifest"
            )
            self._point(f"{repository}:{tag}", self._store(body))
        return manifest

    def _manifest(self, repository: Repository, reference: str) -> Manifest:
        if is_digest(reference):
            where, digest, media_type = f"{repository}@{reference}", reference, ""
        else:
            require_tag(reference)
            where = f"{repository}:{reference}"
            entry = self._tagged(repository, reference)
            digest, media_type = entry["digest"], str(entry.get("mediaType", ""))
        try:
            body = _read(self._blob_path(digest), self._limits.manifest_bytes, where)
        except FileNotFoundError:
            raise ManifestNotFound(f"{where} is not in the image layout {self._path}.") from None
        return parse_manifest(
            body,
            content_type=media_type or _stated_type(body),
            expected_digest=digest,
            where=where,
        )

    def _referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        found: dict[str, Descriptor] = {}
        with contextlib.suppress(ManifestNotFound):
            index = self._manifest(repository, referrers_tag(digest))
            found.update((known.digest, known) for known in by_tag(index))
        for entry in self._entries():
            reference, size = str(entry.get("digest")), entry.get("size")
            if not is_digest(reference) or not isinstance(size, int):
                continue
            # What is not readable is of no use to whoever asks.
            with contextlib.suppress(NotFound, ContentError):
                manifest = self._manifest(repository, reference)
                if manifest.subject is not None and manifest.subject.digest == digest:
                    found[reference] = Descriptor(
                        manifest.media_type,
                        reference,
                        size,
                        manifest.annotations,
                        manifest.artifact_type,
                    )
        return list(found.values())

    def _tagged(self, repository: Repository, tag: str) -> dict[str, Any]:
        found = {
            entry["digest"]: entry
            for owner, name, entry in self._named(self._entries())
            if owner == repository and name == tag
        }
        if not found:
            raise ManifestNotFound(
                f"{repository}:{tag} is not in the image layout {self._path}. "
                "Add it with `otaflux firmware add`."
            )
        if len(found) > 1:
            raise RegistryError(f"{repository}:{tag} is there twice in {self._path}/index.json.")
        return next(iter(found.values()))

    def _named(
        self, entries: list[dict[str, Any]]
    ) -> Iterator[tuple[Repository, str, dict[str, Any]]]:
        for entry in entries:
            name = _ref_name(entry)
            owner, colon, tag = name.rpartition(":")
            if not is_digest(str(entry.get("digest"))) or not is_tag(tag):
                continue
            if not colon:
                if self._repository is not None:
                    yield self._repository, tag, entry
                continue
            with contextlib.suppress(InvalidReference):
                yield Repository.parse(owner), tag, entry

    def _entries(self) -> list[dict[str, Any]]:
        path = self._path / "index.json"
        try:
            document = parse_json(_read(path, self._limits.manifest_bytes, str(path)))
        except FileNotFoundError:
            raise NotFound(
                f"{self._path} is not an OCI image layout: it has no index.json. "
                "Create one with `otaflux firmware add`."
            ) from None
        except ValueError:
            document = None
        entries = document.get("manifests") if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RegistryError(f"{path} is not the index of an OCI image layout.")
        return entries

    async def _parts(
        self, descriptor: Descriptor, check: Verification, where: str
    ) -> AsyncGenerator[bytes, None]:
        try:
            with _readable(where):
                stream = await asyncio.to_thread(open, self._blob_path(descriptor.digest), "rb")
        except FileNotFoundError:
            raise NotFound(f"{where} is not in the image layout {self._path}.") from None
        with stream:
            with _readable(where):
                await asyncio.to_thread(stream.seek, check.received)
            while True:
                with _readable(where):
                    part = await asyncio.to_thread(stream.read, _PART_BYTES)
                if not part:
                    break
                check.update(part)
                yield part
        if not check.complete:
            raise DigestMismatch(
                f"{where} has {check.received} bytes on disk instead of {descriptor.size}. "
                "Add the file again."
            )
        check.finish()

    def _blob_path(self, digest: str) -> Path:
        return self._path / "blobs" / "sha256" / require_digest(digest).removeprefix("sha256:")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        (self._path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        # The marker file doubles as the lock: nothing else may lie about in a layout.
        with (self._path / "oci-layout").open("a+b") as marker:
            fcntl.flock(marker, fcntl.LOCK_EX)
            if marker.tell() == 0:
                marker.write(_encode({"imageLayoutVersion": "1.0.0"}))
                marker.flush()
            yield

    def _store_file(self, file: Path) -> dict[str, Any]:
        limit = self._limits.blob_bytes
        hasher, size = hashlib.sha256(), 0
        with file.open("rb") as source, self._new_file() as (target, keep):
            while part := source.read(_PART_BYTES):
                size += len(part)
                if size > limit:
                    raise TooLarge(f"{file} is larger than {limit} bytes, the limit.")
                hasher.update(part)
                target.write(part)
            digest = "sha256:" + hasher.hexdigest()
            keep(self._blob_path(digest))
        return {"digest": digest, "size": size}

    def _store(self, body: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        with self._new_file() as (target, keep):
            target.write(body)
            keep(self._blob_path(digest))
        return {"digest": digest, "size": len(body)}

    def _point(self, ref_name: str, manifest: dict[str, Any]) -> None:
        path = self._path / "index.json"
        entries = self._entries() if path.exists() else []
        kept = [entry for entry in entries if _ref_name(entry) != ref_name]
        new = {
            "mediaType": OCI_MANIFEST,
            **manifest,
            "artifactType": FIRMWARE_ARTIFACT_TYPE,
            "annotations": {REF_NAME_ANNOTATION: ref_name},
        }
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, new]}
        with self._new_file() as (target, keep):
            target.write(_encode(index))
            keep(path)

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[IO[bytes], Any]]:
        """A file that appears under its name complete or not at all."""
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._path)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target:

                def keep(path: Path) -> None:
                    target.flush()
                    os.fchmod(target.fileno(), 0o644)
                    os.fsync(target.fileno())
                    temporary.replace(path)

                yield target, keep
        finally:
            temporary.unlink(missing_ok=True)


def _ref_name(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME_ANNOTATION) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _stated_type(body: bytes) -> str | None:
    """What a manifest says of itself: by digest there is no Content-Type to go by.

    OCI's may say nothing; then an index is what has `manifests`.
    """
    try:
        document = parse_json(body)
        stated = document.get("mediaType")
    except (ValueError, AttributeError):
        return None
    if stated is None and "layers" in document:
        return OCI_MANIFEST
    if stated is None and "manifests" in document:
        return OCI_INDEX
    return stated if isinstance(stated, str) else None


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Lets FileNotFoundError through: what that means depends."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RegistryError(
            f"{what} cannot be read ({error.strerror or type(error).__name__}). Check the disk, "
            "and whether this user may read the image layout.",
            retryable=True,
        ) from error


def _read(path: Path, limit: int, what: str) -> bytes:
    with _readable(what), path.open("rb") as stream:
        body = stream.read(limit + 1)
    if len(body) > limit:
        raise TooLarge(f"{what} is larger than {limit} bytes, the limit.")
    return body
