"""Serving an artifact's bytes: conditional requests, one range, chunks from disk."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from otaflux_server.artifacts import StoredArtifact
from otaflux_server.ranges import Span, Unsatisfiable, matches, parse_range
from otaflux_server.replies import CLOSE, Reply
from otaflux_server.requests import Request

Send = Callable[[Any], Awaitable[None]]

_CHUNK: Final = 256 * 1024
_OCTETS = (b"Content-Type", b"application/octet-stream")
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class Damaged(Exception):
    """The stored bytes are gone or cut. `started`: some of them are on their way already."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the stored artifact is damaged")
        self.started = started


def artifact_reply(request: Request, artifact: StoredArtifact, *, close: bool) -> Reply:
    """The reply to a GET or HEAD for the artifact, whose ETag is its digest.

    The head stays under 256 bytes: some clients have no more room.
    """
    etag = f'"{artifact.digest}"'
    tail: list[tuple[bytes, bytes]] = [(b"ETag", etag.encode())]
    if close:
        tail.append(CLOSE)
    unchanged = request.header(b"if-none-match")
    if unchanged is not None and matches(unchanged, etag):
        return Reply(304, tail)
    try:
        span = _asked_span(request, artifact, etag)
    except Unsatisfiable:
        size = b"bytes */%d" % artifact.size
        return Reply(416, [(b"Content-Length", b"0"), (b"Content-Range", size), *tail])
    if span is None:
        length = (b"Content-Length", b"%d" % artifact.size)
        headers = [_OCTETS, length, (b"Accept-Ranges", b"bytes"), *tail]
        return Reply(200, headers, artifact=artifact, length=artifact.size)
    content_range = b"bytes %d-%d/%d" % (span.start, span.last, artifact.size)
    length = (b"Content-Length", b"%d" % span.length)
    headers = [_OCTETS, length, (b"Content-Range", content_range), *tail]
    return Reply(206, headers, artifact=artifact, start=span.start, length=span.length)


def _asked_span(request: Request, artifact: StoredArtifact, etag: str) -> Span | None:
    header = request.header(b"range")
    if header is None or request.method != "GET":  # RFC 9110, section 14.2: only GET has ranges
        return None
    condition = request.header(b"if-range")
    if condition is not None and condition.strip() != etag:
        return None
    return parse_range(header, artifact.size)


async def send_small(reply: Reply, send: Send) -> None:
    """Sends a reply with its own body. Raises Disconnected."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


async def send_artifact(
    artifact: StoredArtifact, reply: Reply, send: Send, count: Callable[[int], None]
) -> None:
    """Sends `reply` with bytes of `artifact`; tells `count` of all bytes that go to the connection.

    Raises:
        Disconnected: the client went away.
        Damaged: the stored bytes are gone or cut.
    """
    try:
        handle = os.open(artifact.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Damaged(started=False) from None
    try:
        if os.fstat(handle).st_size != artifact.size:
            raise Damaged(started=False)
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        )
        await _send_bytes(handle, reply, send, count)
    finally:
        os.close(handle)


async def _send_bytes(handle: int, reply: Reply, send: Send, count: Callable[[int], None]) -> None:
    sent = 0
    while True:
        size = min(_CHUNK, reply.length - sent)
        chunk = await _read(handle, size, reply.start + sent)
        if len(chunk) < size:
            raise Damaged(started=True)
        sent += size
        more = sent < reply.length
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
        count(size)
        if not more:
            return


async def _read(handle: int, size: int, offset: int) -> bytes | bytearray:
    """`size` bytes: at once where the page cache holds them, else in a thread."""
    if _NOWAIT:
        buffer = bytearray(size)
        try:
            if os.preadv(handle, [buffer], offset, _NOWAIT) == size:
                return buffer
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    return await asyncio.to_thread(os.pread, handle, size, offset)
