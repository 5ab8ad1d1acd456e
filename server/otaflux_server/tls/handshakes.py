"""Connections that are not secured yet, and become those of the HTTP protocol once they are."""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from otaflux_server.peers import peer_of
from otaflux_server.tls.contexts import ServerContext
from otaflux_server.tls.ports import TlsPort
from otaflux_server.tls.reasons import TlsRefusal, refusal_of

_ALERT_SECONDS = 1.0
"""How long a client has to read the alert and close the connection."""
_CLOSE_SECONDS = 5.0
"""How long a client has to answer that the connection is closed."""


class Handshake(asyncio.Protocol):
    """A new connection of a TLS port.

    `protocol` makes the one that is given the secured transport. `admit(peer, others)` tells
    whether the connection may be there, beside the handshakes `under_way`; `left` ends that.
    """

    def __init__(
        self,
        port: TlsPort,
        protocol: Callable[[], asyncio.Protocol],
        under_way: "set[Handshake]",
        admit: Callable[[str, int], bool],
        left: Callable[[str], None],
    ) -> None:
        self._port = port
        self._protocol = protocol
        self._under_way = under_way
        self._admit = admit
        self._left = left
        self._peer = ""
        self._early = b""
        self._has_begun = False
        self._has_failed = False
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # that of a stream
        self._peer = peer_of(transport)
        self._transport = transport
        if not self._admit(self._peer, len(self._under_way)):
            transport.abort()
            return
        self._under_way.add(self)
        transport.pause_reading()  # (uvloop reads on: see `data_received`)
        self._task = asyncio.get_running_loop().create_task(self._secure())

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, _error: Exception | None) -> None:
        self._is_lost = True

    def early(self) -> bytes:
        """(a `Watcher`)"""
        self._has_begun = True
        return self._early

    def failed(self, error: ssl.SSLError) -> None:
        """(a `Watcher`)"""
        self._has_failed = True
        self._port.refused(refusal_of(error), self._peer, _text(error))
        asyncio.get_running_loop().call_later(_ALERT_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Ends it."""
        self._transport.abort()

    def _expect_again(self, context: ServerContext) -> None:
        if not self._has_begun:
            context.expect(self)

    async def _secure(self) -> None:
        loop = asyncio.get_running_loop()
        early = _Early()
        try:
            if self._is_lost:
                raise ConnectionResetError
            context = self._port.generation.context
            # The connection's object is made within `start_tls` by asyncio, and by uvloop in what
            # that calls soon, right after this. (A context variable does not do: uvloop has one
            # context for all connections of a server.)
            context.expect(self)
            loop.call_soon(self._expect_again, context)
            secured = await loop.start_tls(
                self._transport,
                early,
                context,
                server_side=True,
                ssl_handshake_timeout=self._port.settings.handshake_seconds,
                ssl_shutdown_timeout=_CLOSE_SECONDS,
            )
        except Exception as error:
            if not self._has_failed:
                self._port.refused(refusal_of(error), self._peer, _text(error))
            return
        finally:
            self._under_way.discard(self)
            self._left(self._peer)
        # (asyncio gives no transport where the connection was aborted, and no error)
        if secured is None or secured.is_closing():
            if not self._has_failed:
                self._port.refused(TlsRefusal.CLOSED, self._peer)
            return
        try:
            early.hand_over(secured, self._protocol())
        except BaseException:  # else it would go on, half set up: without what `tls` checks
            secured.abort()
            raise


class _Early(asyncio.Protocol):
    """Keeps what comes after the handshake until the protocol is there that it is for."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._ended = False

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def eof_received(self) -> bool:
        self._ended = True
        return True

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data and not transport.is_closing():
            protocol.data_received(b"".join(self._data))
        if self._ended and not protocol.eof_received():
            transport.close()


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(getattr(error, "reason", None) or error or type(error).__name__)[:200]
