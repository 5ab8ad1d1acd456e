"""The device port: bytes into the HTTP protocol, with the real application behind it."""

import asyncio
import atexit
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from otaflux_server.http import DeviceHttpProtocol, protocol_class
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import Settings

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z' -]*\r\n((?:[A-Za-z-]+: [^\r\n]*\r\n)*)\r\n")
_LENGTH = re.compile(rb"^Content-Length: (\d+)\r$", re.MULTILINE)
_NOT_HTTP = b"this is not an HTTP request"
_TURNS = 200
"""Turns of the event loop in which whatever was asked has to be answered."""
_PIPELINED = 60
"""Beyond, one read has more requests than are taken from it, and another split has not."""


class FakeTransport(asyncio.Transport):
    """Takes all that is written at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.protocol: DeviceHttpProtocol | None = None
        self._loop = loop
        self._closing = False

    def write(self, data: Any) -> None:
        assert not self._closing, "written after the close"
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing and self.protocol is not None:
            self._closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 8080) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Front:
    """A server that was not started: nothing is read from disk, so every device gets `Hold`."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(
            data_dir=folder,
            identity={"kind": "Open"},
            internal={"authentication": "None"},
            connections={"requests_per_second": 1e9, "refusals_per_second": 1e9},
        )
        self._loop = asyncio.new_event_loop()
        self._server = UpdateServer(settings)
        self._config = uvicorn.Config(self._server.device_app, lifespan="off", log_config=None)
        self._config.load()
        app = self._server.device_app
        self._kind = protocol_class(
            settings.connections, self._server.connections, self._server.refusals, app.at_once
        )

    def answers(self, parts: Sequence[bytes]) -> FakeTransport:
        """What a client gets that sends these parts and then closes its side."""
        return self._loop.run_until_complete(self._answers(parts))

    async def _answers(self, parts: Sequence[bytes]) -> FakeTransport:
        state = ServerState()
        transport = FakeTransport(self._loop)
        protocol = self._kind(self._config, state, {}, self._loop)
        transport.protocol = protocol
        protocol.connection_made(transport)
        for part in parts:
            if not transport.is_closing():
                protocol.data_received(part)
            await self._settled(state)
        protocol.eof_received()
        await self._settled(state)
        transport.close()
        await self._settled(state)
        assert not state.tasks, "a request goes on without its connection"
        assert not state.connections
        return transport

    async def _settled(self, state: ServerState) -> None:
        """Whoever waits for more of a body stays."""
        for _ in range(_TURNS if state.tasks else 3):
            await asyncio.sleep(0)
            if not state.tasks:
                break


@cache
def _front() -> _Front:
    folder = tempfile.mkdtemp(prefix="otaflux-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _Front(Path(folder))


def device_port(data: bytes) -> None:
    """Well-formed answers only, none after the last, and the same however the bytes are split.

    But that what is no HTTP may be noticed before an answer to what came before it is given:
    then that is the last one, or is missing.
    """
    front = _front()
    where = data[-1] % len(data) if data else 0
    one, two = front.answers([data]), front.answers([data[:where], data[where:]])
    whole, parts = _answers(one.written), _answers(two.written)
    if len(whole) > _PIPELINED:
        return
    assert all(map(bytes.__eq__, whole, parts)), "an answer depends on the split"
    if not (one.aborted or two.aborted or _NOT_HTTP in one.written + two.written):
        assert len(whole) == len(parts), "an answer is missing"


def _answers(raw: bytes) -> list[bytes]:
    """Each answer, but for whether the connection ends. Raises AssertionError: not well-formed."""
    found: list[bytes] = []
    while raw:
        head = _HEAD.match(raw)
        assert head, f"no head: {raw[:100]!r}"
        raw = raw[head.end() :]
        status = int(head[1])
        assert status < 500, status
        body = b""
        if status != 100:
            assert b"Transfer-Encoding" not in head[2]
            (length,) = map(int, _LENGTH.findall(head[2]))
            body, rest = raw[:length], raw[length:]
            if len(body) != length or rest[:9] not in (b"", b"HTTP/1.1 "):  # to a HEAD
                body, rest = b"", raw
            assert rest[:9] in (b"", b"HTTP/1.1 "), "a body is not as long as it says"
            raw = rest
        found.append(head[0].replace(b"Connection: close\r\n", b"") + body)
    return found
