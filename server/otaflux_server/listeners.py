"""uvicorn as a guest: on a socket of ours, in a loop and a process that are not its own."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from otaflux_server.background import end, kept
from otaflux_server.settings import address
from otaflux_server.tls.handshakes import Handshake
from otaflux_server.tls.ports import TlsPort

_BACKLOG = 1024
_MOST_CONNECTIONS = 1000
"""Where nobody says who is admitted."""


@dataclass(frozen=True, slots=True)
class Security:
    """TLS of a listener. `admit` and `left`: see `Handshake`; `others` are all its connections."""

    port: TlsPort
    admit: Callable[[str, int], bool] = lambda _peer, others: others < _MOST_CONNECTIONS
    left: Callable[[str], None] = lambda _peer: None


class Listener(uvicorn.Server):
    """uvicorn within a loop and a process that are not its own: it leaves signals alone."""

    def __init__(
        self, config: uvicorn.Config, bound_to: socket.socket, security: Security | None = None
    ) -> None:
        super().__init__(config)
        self._socket = bound_to
        self._security = security
        self._handshakes: set[Handshake] = set()
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, or `https:`, once it was started."""
        host, port = self._socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self._security is None else 'https'}://{shown}:{port}"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, but that TLS is begun by us, on the context in use at that moment."""
        assert sockets is not None
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        security = self._security

        def protocol() -> asyncio.Protocol:
            # (uvicorn gives the class the type of asyncio's, which takes no arguments)
            make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
            return make(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=loop,
            )

        def handshake() -> asyncio.Protocol:
            assert security is not None
            return Handshake(
                security.port,
                protocol,
                self._handshakes,
                lambda peer, others: security.admit(
                    peer, others + len(self.server_state.connections)
                ),
                security.left,
            )

        self.servers = [
            await loop.create_server(
                protocol if security is None else handshake, sock=each, backlog=self.config.backlog
            )
            for each in sockets
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Instead of looking ten times a second whether to stop; `date` headers are off."""
        await self._stopping.wait()

    async def start(self) -> None:
        """Returns once connections are accepted."""
        if self._security is not None:
            port = self._security.port
            self._reloading = kept(f"TLS of the {port.name} port", port.run)
        self._serving = asyncio.create_task(self.serve([self._socket]), name="uvicorn")
        while not self.started:
            if self._serving.done():
                await self._serving
                raise OSError("the server ended while it started")
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Returns once all connections are closed, at the latest after the graceful time."""
        self._stopping.set()
        for handshake in list(self._handshakes):
            handshake.abort()
        try:
            if self._serving is not None:
                await self._serving
        finally:
            self._socket.close()
            if self._reloading is not None:
                await end(self._reloading)
        for handshake in list(self._handshakes):  # begun before the socket was closed
            handshake.abort()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


async def listen(
    where: str,
    app: Any,
    protocol: Any,
    servers: list[Listener],
    *,
    grace_seconds: float,
    security: Security | None,
) -> Listener:
    """Serves the application at `where` (`HOST:PORT`), as one of `servers`.

    `grace_seconds`: how long responses may go on when it is stopped. Raises OSError.
    """
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(grace_seconds),
    )
    listener = Listener(config, bound(*address(where)), security)
    servers.append(listener)
    await listener.start()
    return listener


async def stop_all(listeners: list[Listener]) -> None:
    """Stops them all at the same time."""
    await asyncio.gather(*(listener.stop() for listener in listeners))


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, not yet listening. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
