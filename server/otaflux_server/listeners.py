"""uvicorn as a guest: on a socket of ours, in a loop and a process that are not its own."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn


class Listener(uvicorn.Server):
    """uvicorn within a loop and a process that are not its own: it leaves signals alone."""

    def __init__(self, config: uvicorn.Config, bound_to: socket.socket) -> None:
        super().__init__(config)
        self._socket = bound_to
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield

    async def main_loop(self) -> None:
        """Instead of looking ten times a second whether to stop; `date` headers are off."""
        await self._stopping.wait()

    async def start(self) -> None:
        """Returns once connections are accepted."""
        self._serving = asyncio.create_task(self.serve([self._socket]), name="uvicorn")
        while not self.started:
            if self._serving.done():
                await self._serving
                raise OSError("the server ended while it started")
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Returns once all connections are closed, at the latest after the graceful time."""
        self._stopping.set()
        try:
            if self._serving is not None:
                await self._serving
        finally:
            self._socket.close()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


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
