"""HTTP/1.1 towards devices: uvicorn's httptools protocol, with what the smallest clients need.

Differs from uvicorn's in this (each point is a test in `tests/server/test_http.py`):

- line ends before a request line are skipped; after an error nothing is written into a
  response that is under way;
- head and first body chunk leave in one write, so that a client that reads once sees both;
- header names keep the case given; there is no `date` and no `server` header;
- a connection has deadlines (complete request, idle, stalled or slow reader, whole response), kept
  by `sweep`; heads, bodies, and the requests that one read may hold, are bounded; so are the
  connections, in all and of one address;
- what the application can answer at once (`AtOnce`) takes no task, which costs as much as a poll;
- after the client went away `send` raises `Disconnected`, as ASGI 2.4 says, so that nobody
  reads a file for a closed connection.

It relies on names inside uvicorn, which `pyproject.toml` therefore pins to a range, and works on
asyncio's loop and on uvloop. TLS is begun by the listener; here a client whose certificate is not
accepted (any more) is refused, and the application is told of the connection.
"""

import asyncio
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from otaflux_server.connections import Connections, Drop
from otaflux_server.peers import peer_of
from otaflux_server.refusals import Refusal, Refusals
from otaflux_server.replies import Reply
from otaflux_server.responses import Cycle
from otaflux_server.settings import ConnectionSettings
from otaflux_server.tls.connections import SecureConnection
from otaflux_server.tls.ports import TlsPort

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIVersions

AtOnce = Callable[[Any], Reply | None]
"""The complete reply to a request that needs neither its body nor to wait, from its ASGI scope;
None: ask the application. It has no artifact."""

_ASGI: "ASGIVersions" = {"version": "3.0", "spec_version": "2.4"}
_REQUESTS_PER_READ = 64
"""Requests that are taken from one read: they are answered, or queued, before any other connection
has its turn. No device sends more than one at a time."""
_BODIES = 8
"""Bytes of a body that are read though nobody wants them: so many times its limit."""


class _HeadTooLarge(Exception):
    """Raised to the parser, which gives up the connection."""


class _CertificateNotAccepted(Exception):
    """Likewise."""


class DeviceHttpProtocol(HttpToolsProtocol):
    """One connection. Subclass it with the attributes set (see `protocol_class`)."""

    limits = ConnectionSettings()
    all_connections: Connections
    refusals: Refusals
    at_once: AtOnce | None = None
    tls: TlsPort | None = None
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
        self._message_bytes = 0
        self._large_read = False
        self._requests = 0
        self._peer: str | None = None
        self._secured: SecureConnection | None = None
        self._buffered = 0
        self._stalled_since: float | None = None
        self._slow_since: float | None = None
        self._taken = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # (asyncio passes the transport that it has; uvicorn narrows the type likewise)
        peer = peer_of(transport)
        if not self.all_connections.admit(peer, len(self.connections)):
            self.transport = transport
            transport.abort()
            return
        self._peer = peer
        super().connection_made(transport)
        if self.tls is not None:
            self._secured = SecureConnection(self.tls, transport, peer)
        self._deadline = self.loop.time() + self.limits.request_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer is not None:
            self.all_connections.left(self._peer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        aligned = not self._reading_head and self._between_requests()
        if aligned:
            data = data.lstrip(b"\r\n")
            if not data:
                return
            self._message_bytes = 0
        self._requests = 0
        self._large_read = self._message_bytes + len(data) > self.limits.max_head_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if the client had not asked; what follows would be another protocol.
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLarge):
                self._refuse_head()
            elif isinstance(error.__context__, _CertificateNotAccepted):
                why = f"the client certificate is not accepted: {error.__context__}"
                self._refuse(401, Refusal.CERTIFICATE_NOT_ACCEPTED, why)
            else:
                self._refuse(400, Refusal.NOT_HTTP, "this is not an HTTP request")
        else:
            if self._requests <= aligned:  # else the message began somewhere within
                self._message_bytes += len(data)
            if self._reading_head:
                if self._message_bytes > self.limits.max_head_bytes:
                    self._refuse_head()
            elif self._message_bytes > self._max_message and not self._between_requests():
                self._refuse(413, Refusal.BODY_TOO_LARGE, "the body is too large")

    @property
    def _max_message(self) -> int:
        return self.limits.max_head_bytes + _BODIES * self.limits.max_body_bytes

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """The client sends no more, but may still read: a response under way is completed."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return self.scheme == "http"  # a TLS transport cannot stay half open

    def _between_requests(self) -> bool:
        return self.cycle is None or not self.cycle.more_body

    def _refuse(self, status: int, reason: Refusal, why: str) -> None:
        if self.transport.is_closing():
            return
        self.refusals.note(status, reason, self._peer or "")
        self._deadline = None
        self._reading_head = False
        if self.cycle is not None and (not self.cycle.response_complete or self.cycle.more_body):
            # A response is under way: it is the last one, and nothing may get between its bytes.
            # Or it was given before the request was complete, which has no second one.
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

    def _refuse_head(self) -> None:
        why = f"the head is larger than {self.limits.max_head_bytes} bytes"
        self._refuse(431, Refusal.HEAD_TOO_LARGE, why)

    # What the parser calls

    def on_message_begin(self) -> None:
        self._requests += 1
        if self._requests > _REQUESTS_PER_READ:
            raise ValueError("too many requests at once")
        if self.tls is not None:
            assert self._secured is not None
            if (why := self._secured.refusal()) is not None:
                raise _CertificateNotAccepted(why.value)
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
        if self._secured is not None:
            self.scope["extensions"] = self._secured.extensions
        self._reading_head = True
        self._message_bytes = 0
        self._deadline = self.loop.time() + self.limits.request_seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._reading_head:
            return  # trailers are no headers
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        # uvicorn's own, but for the cycle's class, the unused WebSocket and its load limit.
        self._reading_head = False
        if self._large_read:
            fields = sum(len(name) + len(value) for name, value in self.headers)
            if len(self.url) + fields > self.limits.max_head_bytes:
                raise _HeadTooLarge
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
        if self.transport.is_closing():
            return  # the answer before was the last one (RFC 9112, section 9.6)
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

    def drop_overdue(self, now: float) -> None:
        """Drops the connection if the client's time is used up at `now` (the loop's clock)."""
        reason = self.overdue(now)
        if reason is not None:
            self.all_connections.dropped(reason, self._peer or "")
            self.transport.abort()

    def overdue(self, now: float) -> Drop | None:
        """Why the client's time is used up at `now` (the loop's clock), if it is."""
        if self._deadline is not None and now >= self._deadline:
            return Drop.IDLE if self._is_idle() else Drop.REQUEST_TOO_SLOW
        buffered = self.transport.get_write_buffer_size()
        cycle = self.cycle
        if buffered == 0:
            self._stalled_since = self._slow_since = None
        else:
            if self._stalled_since is None or buffered != self._buffered:
                self._stalled_since = now
            elif now - self._stalled_since >= self.limits.stall_seconds:
                return Drop.READER_STALLED
            if cycle is not None and self._is_slow(now, cycle.streamed - buffered):
                return Drop.READER_TOO_SLOW
        self._buffered = buffered
        waiting = cycle is not None and (not cycle.response_complete or buffered > 0)
        if waiting and now >= cycle.response_deadline:
            return Drop.RESPONSE_TOO_LONG
        return None

    def _is_idle(self) -> bool:
        return self.cycle is not None and not self._reading_head and not self.cycle.more_body

    def _is_slow(self, now: float, taken: int) -> bool:
        """Whether too few bytes were taken; `taken` grows by each of those of a response."""
        since = self._slow_since
        if since is None or taken < self._taken:  # the first look, or another response
            self._slow_since, self._taken = now, taken
        elif now - since >= self.limits.stall_seconds:
            if taken - self._taken < self.limits.min_bytes_per_second * (now - since):
                return True
            self._slow_since, self._taken = now, taken
        return False


def protocol_class(
    limits: ConnectionSettings,
    all_connections: Connections,
    refusals: Refusals,
    at_once: AtOnce | None = None,
    tls: TlsPort | None = None,
) -> type[DeviceHttpProtocol]:
    """The protocol with these limits, for uvicorn's `Config(http=…)`."""
    attributes = {
        "limits": limits,
        "all_connections": all_connections,
        "refusals": refusals,
        "at_once": at_once and staticmethod(at_once),
        "tls": tls,
    }
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
            if isinstance(connection, DeviceHttpProtocol):
                connection.drop_overdue(now)
