"""What a client can do to a connection on purpose, or by dying in the middle, on both loops."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fleets import Answer, Served, firmware, serving, settings, version_body

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)
LARGE = firmware("2.0.0", 32 << 20)
POLL = b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n"
DOWNLOAD = b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["uvloop", "asyncio"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path), loop=request.param) as server:
        server.offer("1.4.0", CONTENT)
        yield server


def read_all(connection: socket.socket) -> bytes:
    raw = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            raw += part
    return raw


def downloads(served: Served, result: str) -> float:
    labels = {"protocol": "native", "result": result}
    registry = served.server.metrics.registry
    return registry.get_sample_value("otaflux_downloads_total", labels) or 0.0


def polls(served: Served) -> int:
    return served.call(lambda: served.server.metrics._polls.counts["native", "Offered"])


def test_bytes_that_go_missing_on_the_way_end_the_connection(served: Served) -> None:
    """The only way left to say so; the client would wait for the rest."""
    digest = served.offer("2.0.0", LARGE).firmware.digest
    served.get("/version?device=a")
    artifact = served.server.artifacts.get(digest)
    assert artifact is not None
    with served.connect() as connection:
        connection.sendall(DOWNLOAD)
        assert connection.recv(1)
        os.truncate(artifact.path, 100)
        assert len(read_all(connection)) < len(LARGE)
    served.wait(lambda: served.source.pulls.count(digest) == 2)


def test_a_download_ends_with_its_connection_though_more_was_asked(served: Served) -> None:
    served.offer("2.0.0", LARGE)
    served.get("/version?device=a")
    with served.connect() as connection:
        connection.sendall(DOWNLOAD + POLL)
        assert connection.recv(1)
    served.wait(lambda: downloads(served, "Broken") + downloads(served, "Complete") > 0)
    assert downloads(served, "Complete") == 0


def test_trailers_without_end_are_not_collected(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(
            b"POST /api/v1/poll HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(b"X: %s\r\n" % (b"y" * 90) * 1000)
            pytest.fail("the server reads trailers without end")


def test_a_body_without_end_is_given_up(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /version?device=a HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(b"x" * 100_000)
            pytest.fail("the server reads a body without end that nobody wants")


def test_nothing_is_answered_after_a_close(served: Served) -> None:
    """RFC 9112, section 9.6."""
    last = b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n"
    before = polls(served)
    assert served.ask(last + POLL + last).raw.count(b"HTTP/1.1 ") == 1
    assert polls(served) == before + 1


def test_no_read_holds_more_than_so_many_requests(served: Served) -> None:
    """They would be answered, or queued, before any other connection has its turn."""
    with served.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(POLL * 4000)
        assert read_all(connection).count(b"HTTP/1.1 200") < 1000
    assert polls(served) < 1000
    assert served.get("/version?device=a").body == BODY


def test_some_requests_in_one_read_are_answered(served: Served) -> None:
    last = b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert served.ask(POLL * 30 + last).raw.count(BODY) == 31


def test_a_large_head_is_refused_even_in_one_read(served: Served) -> None:
    head = b"GET /version?device=a&x=%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"y" * 40_000)
    answer = served.ask(head)
    assert (answer.status, answer.headers["Connection"]) == (431, "close")


def test_a_request_follows_a_large_body_in_one_read(served: Served) -> None:
    body = b'{"device":"a","attributes":{"x":"%s"}}' % (b" " * 200)
    request = b"POST /api/v1/poll HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        len(body) + 40_000
    )
    padded = request + body + b" " * 40_000
    last = b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert Answer(served.ask(padded + last).raw).raw.count(b"HTTP/1.1 200") == 2
