"""One HTTP exchange per connection, as small devices do it: `Connection: close`, plain sockets.

A client library would hide what the simulator is for: the leading CRLF of the original client,
a reader that is slow on purpose, a transfer that breaks off in the middle.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

TIMEOUT = 30.0
"""Seconds for the connection, for the reply's head and for each piece of its body."""

_HEAD_LIMIT = 16 * 1024
_SMALL_BODY = 64 * 1024
_READ_AHEAD = 16 * 1024


class ExchangeFailed(Exception):
    """No usable reply: not connected, too late, or not HTTP. The message names the server."""


class TransferBroken(ExchangeFailed):
    """The body ended before its announced length."""


class InvalidServerUrl(ValueError):
    """The text is not the address of an update server."""


class Origin:
    """The address of an update server, `http://host:port[/prefix]`.

    Raises:
        InvalidServerUrl: it is not an http or https URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InvalidServerUrl(f"{url!r} is no server address: write http://host:port")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.prefix = parts.path.rstrip("/")
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.netloc = parts.netloc.rpartition("@")[2]

    def path(self, reference: str) -> str:
        """The request target of a URL that the server gave, absolute or not.

        Its host is not looked at: a simulated device stays with the server that it was given,
        whatever public address that server tells real ones.
        """
        parts = urlsplit(reference)
        return parts.path + (f"?{parts.query}" if parts.query else "")


class Reply:
    """Status and headers (names in lower case); the body is read piece by piece."""

    def __init__(
        self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    async def body(self, piece: int = _READ_AHEAD) -> AsyncIterator[bytes]:
        """The body in pieces of at most `piece` bytes.

        Raises:
            TransferBroken: it ended before its announced length.
        """
        announced = self.headers.get("content-length", "")
        left = int(announced) if announced.isdecimal() else None
        while left is None or left > 0:
            try:
                async with asyncio.timeout(TIMEOUT):
                    data = await self._reader.read(piece if left is None else min(piece, left))
            except (OSError, TimeoutError) as error:
                raise TransferBroken(str(error) or "no more bytes in time") from None
            if not data:
                if left is None:
                    return
                raise TransferBroken(f"{left} bytes are missing")
            if left is not None:
                left -= len(data)
            yield data

    async def small_body(self) -> bytes:
        """The whole body of a reply that is no download.

        Raises:
            ExchangeFailed: longer than 64 KiB, or broken off.
        """
        collected = b""
        async for data in self.body():
            collected += data
            if len(collected) > _SMALL_BODY:
                raise ExchangeFailed("the reply is too long")
        return collected


@asynccontextmanager
async def exchange(
    origin: Origin,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes = b"",
    before: str = "",
) -> AsyncIterator[Reply]:
    """Send one request on a connection of its own; the connection closes with the context.

    Raises:
        ExchangeFailed: as above.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(
                origin.host, origin.port, ssl=origin.tls, limit=_READ_AHEAD
            )
    except (OSError, TimeoutError) as error:
        raise ExchangeFailed(f"{origin.netloc} cannot be reached: {_cause(error)}") from None
    try:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {origin.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        writer.write((before + "\r\n".join(lines) + "\r\n\r\n").encode() + content)
        try:
            async with asyncio.timeout(TIMEOUT):
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise ExchangeFailed(f"{origin.netloc} sent more than {_HEAD_LIMIT} bytes") from None
        except (OSError, EOFError, TimeoutError) as error:
            raise ExchangeFailed(f"{origin.netloc} did not answer: {_cause(error)}") from None
        yield _reply(head, reader, origin)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _reply(head: bytes, reader: asyncio.StreamReader, origin: Origin) -> Reply:
    first, *rest = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ExchangeFailed(f"{origin.netloc} does not speak HTTP")
    headers = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Reply(int(words[1]), headers, reader)


def _cause(error: BaseException) -> str:
    return "too slow" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
