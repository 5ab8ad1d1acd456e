"""What one client can take from the others on the internal port, without any token."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otaflux_server.access.protocols import InternalHttpProtocol
from tests.server.access.test_guards import told
from tests.server.fleets import Served, serving, settings

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["uvloop", "asyncio"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    internal = {"authentication": "Token", "token_file": str(tmp_path / "none")}
    with serving(settings(tmp_path / "data", internal=internal), loop=request.param) as made:
        yield made


def connect(served: Served) -> socket.socket:
    host, port = served.server.internal_url.rpartition("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def rest(connection: socket.socket) -> bytes:
    """What comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found


def is_healthy(connection: socket.socket, header: bytes = b"") -> bool:
    connection.sendall(HEALTH[:-2] + header + b"\r\n")
    found = b""
    while not found.endswith(b"ok\n") and (part := connection.recv(65536)):
        found += part
    return found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\n" + b"X-A: %s\r\n" % (b"x" * 70) * 200_000,
        b"GET /" + b"x" * (16 << 20),
        b"POST /healthz HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (16 << 20),
    ],
    ids=["head", "target", "body"],
)
def test_what_is_too_large_is_not_kept(served: Served, sent: bytes) -> None:
    with connect(served) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        rest(connection)
    assert told(served, 413, "RequestTooLarge") == 1


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nX-A: b\r\n", HEALTH + b"GET /"])
def test_what_never_ends_is_ended(
    served: Served, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InternalHttpProtocol, "exchange_seconds", 0.2)
    with connect(served) as connection:
        connection.sendall(sent)
        rest(connection)
    assert told(served, 408, "RequestTooSlow") == 1


def test_so_many_and_no_more(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InternalHttpProtocol, "most_connections", 2)
    with connect(served) as first, connect(served) as second:
        for connection in (first, second):
            assert is_healthy(connection)
        with connect(served) as third:
            assert rest(third).startswith(b"HTTP/1.1 503")
        assert told(served, 503, "TooManyConnections") == 1
        assert is_healthy(first)

    def answers() -> bool:
        with connect(served) as connection, contextlib.suppress(ConnectionError):
            return is_healthy(connection)
        return False

    deadline = time.monotonic() + 30
    while not answers():  # until the server has seen that they went away
        assert time.monotonic() < deadline


def test_many_requests_are_one_after_the_other_not_one_large(served: Served) -> None:
    with connect(served) as connection:
        for _ in range(20):
            assert is_healthy(connection, b"X-A: %s\r\n" % (b"x" * 4096))
    assert told(served, 413, "RequestTooLarge") == 0
