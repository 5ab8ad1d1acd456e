"""HTTP on the internal port: uvicorn's own, but that nobody can hold it up, token or none."""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from otaflux_server.access.callers import AccessRefusal
from otaflux_server.access.refusals import AccessRefusals
from otaflux_server.metrics import Metrics
from otaflux_server.peers import peer_of
from otaflux_server.tls.connections import SecureConnection
from otaflux_server.tls.ports import TlsPort


class InternalHttpProtocol(HttpToolsProtocol):
    """One connection. Subclass it with the attributes set (see `internal_protocol`).

    uvicorn bounds neither a request's size nor its time. All of these are far beyond what the
    operator, `otaflux`, kubelet and Prometheus do.
    """

    most_connections = 1000
    most_bytes = 64 * 1024
    """Of a request, head and body."""
    exchange_seconds = 60.0
    """For a request to come, and then for its response to be taken."""

    tls: TlsPort | None = None
    refusals: AccessRefusals

    _peer = ""
    _message_bytes = 0
    _secured: SecureConnection | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers what the client showed."""
        transport = cast(asyncio.Transport, transport)  # that of a stream
        self._peer = peer_of(transport)
        if len(self.connections) >= self.most_connections:
            self.transport = transport
            self._refuse(AccessRefusal.TOO_MANY_CONNECTIONS)
            return
        if self.tls is not None:
            self._secured = SecureConnection(self.tls, transport, self._peer)
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Drops a client that is not accepted any more, before anything it says is read."""
        if self.tls is not None:
            assert self._secured is not None
            if self._secured.refusal() is not None:
                self.transport.abort()
                return
        self._message_bytes += len(data)
        if self._message_bytes > self.most_bytes:
            self._refuse(AccessRefusal.REQUEST_TOO_LARGE)
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begin()

    def on_message_complete(self) -> None:
        """What comes next is of another one."""
        super().on_message_complete()
        self._message_bytes = 0

    def on_response_complete(self) -> None:
        """The client has as long again to take it."""
        super().on_response_complete()
        self._begin()

    def _begin(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.exchange_seconds, self._overdue)

    def _overdue(self) -> None:
        self._refuse(AccessRefusal.REQUEST_TOO_SLOW)

    def _refuse(self, reason: AccessRefusal) -> None:
        status = self.refusals.note(reason, self._peer)
        if self.cycle is not None:  # it might get into a response
            self.transport.abort()
            return
        self.transport.write(STATUS_LINE[status] + b"connection: close\r\n\r\n")
        self.transport.close()


def internal_protocol(port: TlsPort | None, metrics: Metrics) -> type[InternalHttpProtocol]:
    """The protocol on this port (None: without TLS), for uvicorn's `Config(http=…)`."""
    attributes = {"tls": port, "refusals": AccessRefusals(metrics)}
    return type("BoundInternalHttpProtocol", (InternalHttpProtocol,), attributes)
