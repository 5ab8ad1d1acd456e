"""The official archive of test binaries: fetched, checked, unpacked into the cache."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import shutil
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from .caches import Cache
from .pins import ARCHIVED_PARTS, Archive

CONNECT_WITHIN = 5.0
# Name resolution and redirects together; they have no timeout of their own.
_ANSWER_WITHIN = 15.0
_READ_WITHIN = 30.0
_MAX_BYTES = 300 * 1024 * 1024
_CHUNK = 1024 * 1024


class ArchiveUnavailable(Exception):
    """The official archive could not be had, or is not what it should be."""


def install_archive(archive: Archive, cache: Cache) -> Path:
    """Fetch, verify, then unpack; returns the folder in the cache.

    Nothing of an archive with another checksum is unpacked or kept. Raises
    ArchiveUnavailable.
    """
    with cache.installing(archive.folder) as staging:
        download = staging / "download.tar.gz"
        try:
            _fetch(archive, download)
            _unpack(download, staging)
        except (OSError, http.client.HTTPException, tarfile.TarError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise ArchiveUnavailable(f"{archive.url}: {error}") from error
        download.unlink()
    return cache.binaries / archive.folder


def _fetch(archive: Archive, target: Path) -> None:
    checksum = hashlib.sha512()
    size = 0
    with _open(archive.url) as response, target.open("wb") as file:
        while chunk := response.read(_CHUNK):
            size += len(chunk)
            if size > _MAX_BYTES:
                raise ArchiveUnavailable(f"{archive.url}: more than {_MAX_BYTES} bytes")
            checksum.update(chunk)
            file.write(chunk)
    if checksum.hexdigest() != archive.sha512:
        raise ArchiveUnavailable(
            f"{archive.url}: SHA-512 is {checksum.hexdigest()}, not {archive.sha512}; refused"
        )


def _unpack(download: Path, target: Path) -> None:
    with tarfile.open(download, "r:gz") as archive:
        programs = {Path(member.name).name: member for member in archive if member.isfile()}
        for name in ARCHIVED_PARTS:
            content = archive.extractfile(programs[name]) if name in programs else None
            if content is None:
                raise ArchiveUnavailable(f"the archive holds no {name}")
            with content, (target / name).open("wb") as file:
                shutil.copyfileobj(content, file)
            (target / name).chmod(0o755)


def _open(url: str) -> IO[bytes]:
    """Open a URL in a thread of its own, so that name resolution cannot hold us up."""
    opening: concurrent.futures.Future[IO[bytes]] = concurrent.futures.Future()

    def run() -> None:
        opener = urllib.request.build_opener(_Http, _Https)
        try:
            opening.set_result(opener.open(url, timeout=CONNECT_WITHIN))
        except BaseException as error:
            opening.set_exception(error)

    threading.Thread(target=run, daemon=True, name="archive").start()
    try:
        return opening.result(_ANSWER_WITHIN)
    except concurrent.futures.TimeoutError:
        opening.add_done_callback(_close_late_answer)
        raise TimeoutError(f"no answer within {_ANSWER_WITHIN:.0f} s") from None


def _close_late_answer(opening: concurrent.futures.Future[IO[bytes]]) -> None:
    if opening.exception() is None:
        opening.result().close()


# Once connected, a read may take longer than the connection was given.
class _HttpConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(_READ_WITHIN)


class _HttpsConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(_READ_WITHIN)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpConnection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_HttpsConnection, request)
