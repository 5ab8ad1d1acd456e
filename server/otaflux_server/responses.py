"""Responses on a device's connection: head and first body chunk in one write, never chunked."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from otaflux_server.replies import Reply

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

_NO_BODY = frozenset({204, 304})
_MAX_HEADS = 1024


class Disconnected(OSError):
    """The client went away before the response was complete."""


class _Head(NamedTuple):
    """A response's head. `length` of the body, -1: until the connection ends."""

    text: bytes
    length: int
    keep_alive: bool


# Most replies of a fleet have one of a few heads.
_heads: dict[object, _Head] = {}


def _head(status: int, headers: Iterable[tuple[bytes, bytes]], keep_alive: bool) -> _Head:
    parts = [STATUS_LINE[status]]
    length = 0 if status in _NO_BODY else -1
    has_close = False
    for name, value in headers:
        if b"\n" in value or b"\r" in value:
            raise RuntimeError("a header value holds a line end")
        lower = name.lower()
        if lower == b"content-length":
            length = int(value)
        elif lower == b"connection" and b"close" in value.lower():
            has_close = True
        parts += (name, b": ", value, b"\r\n")
    # No device takes a chunked body: a response without a length ends with the connection.
    keep_alive = keep_alive and not has_close and length >= 0
    if not keep_alive and not has_close:
        parts.append(b"Connection: close\r\n")
    parts.append(b"\r\n")
    return _Head(b"".join(parts), length, keep_alive)


class Cycle(RequestResponseCycle):
    """One request and its response."""

    response_deadline: float = float("inf")
    running: set[asyncio.Task[None]] = set()
    """The server's set of running requests."""
    streamed: int = 0
    """Bytes of the body that were written after its first part."""
    _head: bytes = b""

    async def run_asgi(self, app: "ASGI3Application") -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except Disconnected:
            if not self.response_complete:
                self.transport.abort()  # the client must not wait for the rest
        except BaseException as error:
            self.logger.error("exception in the application", exc_info=error)
            if self.response_started:
                self.transport.close()
            else:
                with contextlib.suppress(Disconnected):
                    await self.send_500_response()
        else:
            if not self.response_complete and not self.disconnected:
                self.logger.error("the application returned without a complete response")
                self.transport.close()
        finally:
            self.on_response = _nothing
            task = asyncio.current_task()
            if task is not None:
                self.running.discard(task)

    async def send(self, message: "ASGISendEvent") -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        # (uvicorn tells the last request of a connection alone that it ended)
        if self.disconnected or self.transport.is_closing():
            raise Disconnected("the client went away")
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._render(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.response_started:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} may not be sent now")

    def send_at_once(self, reply: Reply) -> None:
        """Sends a reply as a whole; nothing may wait to be written before it."""
        self._head = self._render(reply.status, reply.headers)
        self.response_started = True
        self._send_body(reply.body, False)
        self.on_response = _nothing

    def _render(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        key = (status, headers, self.keep_alive) if type(headers) is tuple else None
        head = _heads.get(key) if key is not None else None
        if head is None:
            head = _head(status, headers, self.keep_alive)
            if key is not None:
                if len(_heads) >= _MAX_HEADS:
                    _heads.clear()
                _heads[key] = head
        self.chunked_encoding = False
        self.expected_content_length = head.length
        self.keep_alive = head.keep_alive
        return head.text

    def _send_body(self, body: bytes, more_body: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the response is complete already")
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.expected_content_length >= 0:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its Content-Length")
        head, self._head = self._head, b""
        if head:
            self.transport.write(head + body if body else head)
        elif body:
            self.streamed += len(body)
            self.transport.write(body)
        if more_body:
            return
        if self.expected_content_length > 0:
            raise RuntimeError("the body is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _nothing() -> None:
    """Called when a response is complete after its request was given up."""
