"""HTTP on the internal port with TLS: uvicorn's own, for clients that are still accepted."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from otaflux_server.tls.connections import SecureConnection
from otaflux_server.tls.ports import TlsPort


class InternalHttpProtocol(HttpToolsProtocol):
    """One connection. Subclass it with `tls` set (see `internal_protocol`)."""

    tls: TlsPort

    # (asyncio passes the transport that it has; uvicorn narrows the type likewise)
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remembers what the client showed."""
        super().connection_made(transport)
        self._secured = SecureConnection(self.tls, transport, self.client[0] if self.client else "")

    def data_received(self, data: bytes) -> None:
        """Drops a client that is not accepted any more, before anything it says is read."""
        if self._secured.refusal() is not None:
            self.transport.abort()
            return
        super().data_received(data)


def internal_protocol(port: TlsPort) -> type[InternalHttpProtocol]:
    """The protocol on this port, for uvicorn's `Config(http=…)`."""
    return type("SecuredInternalHttpProtocol", (InternalHttpProtocol,), {"tls": port})
