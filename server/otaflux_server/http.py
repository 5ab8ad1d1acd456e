"""HTTP/1.1 towards devices: uvicorn's httptools protocol, with what the smallest clients need.

Differs from uvicorn's in this (each point is a test in `tests/server/test_http.py`):

- line ends before a request line are skipped; after an error nothing is written into a
  response that is under way;
- head and first body chunk leave in one write, so that a client that reads once sees both;
- header names keep the case given; there is no `date` and no `server` header;
- a connection has deadlines (complete request, idle, stalled reader, whole response), kept by
  `sweep`, and heads are bounded;
- what the application can answer at once (`AtOnce`) takes no task, which costs as much as a poll;
- after the client went away `send` raises `Disconnected`, as ASGI 2.4 says, so that nobody
  reads a file for a closed connection.

It relies on names inside uvicorn, which `pyproject.toml` therefore pins to a range, and works on
asyncio's loop and on uvloop. TLS is uvicorn's own (`Config.ssl_…`).
"""

import asyncio
import urllib.parse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from otaflux_server.replies import Reply
from otaflux_server.settings import ConnectionSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent, ASGIVersions

AtOnce = Callable[[Any], Reply | None]
"""The complete reply to a request that needs neither its body nor to wait, from its ASGI scope;
None: ask the application. It has no artifact."""

_ASGI: "ASGIVersions" = {"version": "3.0", "spec_version": "2.4"}
_NO_BODY = frozenset({204, 304})
_MAX_HEADS = 1024


class Disconnected(OSError):
    """The client went away before the response was complete."""


class DeviceHttpProtocol(HttpToolsProtocol):
    """One connection. Subclass it with `limits` set (see `protocol_class`)."""

    limits = ConnectionSettings()
    at_once: AtOnce | None = None
    cycle: "Cycle"

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: float | None = None
        self._reading_head = False
        self._head_bytes = 0
        self._buffered = 0
        self._stalled_since: float | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # (asyncio passes the transport that it has; uvicorn narrows the type likewise)
        if len(self.connections) >= self.limits.max_connections:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._deadline = self.loop.time() + self.limits.request_seconds

    def data_received(self, data: bytes) -> None:
        if not self._reading_head and self._between_requests():
            data = data.lstrip(b"\r\n")
            if not data:
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if the client had not asked; what follows would be another protocol.
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(400, "this is not an HTTP request")
            return
        if self._reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.max_head_bytes:
                self._refuse(431, f"the head is larger than {self.limits.max_head_bytes} bytes")

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """The client sends no more, but may still read: a response under way is completed."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return self.scheme == "http"  # a TLS transport cannot stay half open

    def _between_requests(self) -> bool:
        return self.cycle is None or not self.cycle.more_body

    def _refuse(self, status: int, why: str) -> None:
        if self.transport.is_closing():
            return
        self._deadline = None
        self._reading_head = False
        if self.cycle is not None and not self.cycle.response_complete:
            # A response is under way: it is the last one, and nothing may get between its bytes.
            if self.cycle.more_body:
                self.transport.abort()
            self.cycle.keep_alive = False
            return
        body = f"Error: {why}\n".encode()
        self.transport.write(
            STATUS_LINE[status] + b"Content-Type: text/plain\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (len(body), body)
        )
        self.transport.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": "",
            "headers": self.headers,
            "state": {},
            "method": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
        }
        self._reading_head = True
        self._head_bytes = 0
        self._deadline = self.loop.time() + self.limits.request_seconds

    def on_headers_complete(self) -> None:
        # uvicorn's own, but for the cycle's class, the unused WebSocket and its load limit.
        self._reading_head = False
        scope = self.scope
        version = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        raw_path, _, scope["query_string"] = self.url.partition(b"?")
        if raw_path[:1] != b"/" or b"#" in self.url:  # absolute, or not a target at all
            url = httptools.parse_url(self.url)
            if url.path is None:
                raise ValueError("no path")
            raw_path, scope["query_string"] = url.path, url.query or b""
        path = raw_path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        before = self.cycle
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.response_deadline = self.loop.time() + self.limits.response_seconds
        if before is None or before.response_complete:
            if not self._answered_at_once(self.cycle):
                self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        # The cycle takes itself off the set: a callback would cost another turn of the loop.
        assert isinstance(cycle, Cycle)
        cycle.running = self.tasks
        self.tasks.add(self.loop.create_task(cycle.run_asgi(app)))

    def _answered_at_once(self, cycle: "Cycle") -> bool:
        """Answers without a task; False: the application has to be asked."""
        if self.at_once is None or self.flow.write_paused or self.parser.should_upgrade():
            return False
        try:
            reply = self.at_once(cycle.scope)
            if reply is None:
                return False
            cycle.send_at_once(reply)
        except Exception:  # comes again from the application, where it is logged and answered
            return False
        return True

    def on_message_complete(self) -> None:
        cycle = self.cycle
        cycle.more_body = False
        if cycle.response_complete:
            self._deadline = self.loop.time() + self.limits.idle_seconds
        else:
            cycle.message_event.set()
            self._deadline = None

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._reading_head:
            self._deadline = self.loop.time() + self.limits.idle_seconds

    # Deadlines

    def overdue(self, now: float) -> bool:
        """Whether the client used up its time at `now` (the loop's clock)."""
        if self._deadline is not None and now >= self._deadline:
            return True
        buffered = self.transport.get_write_buffer_size()
        if buffered == 0:
            self._stalled_since = None
        elif self._stalled_since is None or buffered != self._buffered:
            self._stalled_since = now
        elif now - self._stalled_since >= self.limits.stall_seconds:
            return True
        self._buffered = buffered
        cycle = self.cycle
        waiting = cycle is not None and (not cycle.response_complete or buffered > 0)
        return waiting and now >= cycle.response_deadline


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
    _head: bytes = b""

    async def run_asgi(self, app: "ASGI3Application") -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except Disconnected:
            pass
        except BaseException as error:
            self.logger.error("exception in the application", exc_info=error)
            if self.response_started:
                self.transport.close()
            else:
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
        if self.disconnected:
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


def protocol_class(
    limits: ConnectionSettings, at_once: AtOnce | None = None
) -> type[DeviceHttpProtocol]:
    """The protocol with these limits, for uvicorn's `Config(http=…)`."""
    attributes = {"limits": limits, "at_once": at_once and staticmethod(at_once)}
    return type("LimitedDeviceHttpProtocol", (DeviceHttpProtocol,), attributes)


async def sweep(state: ServerState, limits: ConnectionSettings) -> None:
    """Drops connections that used up their time, until cancelled."""
    shortest = min(
        limits.request_seconds,
        limits.idle_seconds,
        limits.stall_seconds,
        limits.response_seconds,
    )
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(min(1.0, shortest / 4))
        now = loop.time()
        for connection in list(state.connections):
            if isinstance(connection, DeviceHttpProtocol) and connection.overdue(now):
                connection.transport.abort()
