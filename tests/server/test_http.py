"""The HTTP layer, by raw sockets, on both event loops (device-protocols: what shapes it)."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from otaflux_server.http import DeviceHttpProtocol
from tests.server.fleets import Answer, Served, firmware, serving, settings, version_body

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(settings(tmp_path_factory.mktemp("data")), loop=request.param) as server:
        server.offer("1.4.0", CONTENT)
        # A device that was updated: nothing that it fetches is held against it.
        for said in ("", "&version=1.4.0"):
            assert server.get(f"/version?device=a{said}").status == 200
        yield server


@pytest.fixture(params=["uvloop", "asyncio"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Gives a server with these connection settings."""
    with contextlib.ExitStack() as stack:

        def start(**connections: object) -> Served:
            options = settings(tmp_path, connections=connections)
            return stack.enter_context(serving(options, loop=request.param))

        yield start


def read_answer(connection: socket.socket) -> Answer:
    """One response of a connection that stays open, by its Content-Length."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += _receive(connection)
    answer = Answer(raw)
    while len(answer.body) < int(answer.headers["Content-Length"]):
        answer = Answer(answer.raw + _receive(connection))
    return answer


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    assert part, "the server closed the connection"
    return part


def ended(connection: socket.socket) -> bool:
    """Whether the server ends the connection (within the socket's timeout)."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_the_version_of_uvicorn_is_one_that_this_was_made_for() -> None:
    major, minor = (int(part) for part in uvicorn.__version__.split(".")[:2])
    assert (0, 40) <= (major, minor) < (0, 55)


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\n\r\n", b"\r\n" * 50])
def test_line_ends_before_the_request_are_skipped(served: Served, before: bytes) -> None:
    answer = served.ask(before + b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.body) == (200, BODY)


def test_line_ends_may_come_alone_and_between_requests(served: Served) -> None:
    with served.connect() as connection:
        for part in (b"\r", b"\n", b"GET /version?device=a HTT", b"P/1.1\r\nHost: x\r\n\r\n"):
            connection.sendall(part)
        assert read_answer(connection).body == BODY
        connection.sendall(b"\r\n\r\nGET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection).body == BODY


def test_head_and_body_come_in_one_read(served: Served) -> None:
    """A client that reads once, into 256 bytes, sees everything."""
    for _ in range(50):
        with served.connect() as connection:
            connection.sendall(b"\r\nGET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = Answer(connection.recv(256))
            assert answer.status == 200
            assert answer.body == BODY


def test_header_names_keep_their_case(served: Served) -> None:
    head = served.get("/firmware?device=a").head + served.get("/version?device=a").head
    assert b"\r\nContent-Length: " in head
    assert b"\r\nConnection: close\r\n" in head
    assert b"content-length" not in head


@pytest.mark.parametrize("path", ["/version?device=a", "/firmware?device=a", "/version", "/none"])
def test_no_header_that_a_small_client_does_not_need(served: Served, path: str) -> None:
    served.get("/version?device=a")
    names = {name.lower() for name in served.get(path).headers}
    assert names <= {"content-type", "content-length", "connection", "etag", "accept-ranges"}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/version?device=a", "/firmware?device=a", "/version", "/none"])
def test_always_a_length_never_chunks(served: Served, version: str, path: str) -> None:
    served.get("/version?device=a")
    request = f"GET {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = served.ask(request)
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert "Transfer-Encoding" not in answer.headers


def test_http_1_0_closes_without_being_asked(served: Served) -> None:
    answer = served.ask("GET /version?device=a HTTP/1.0\r\n\r\n")
    assert answer.headers["Connection"] == "close"
    assert answer.body == BODY


def test_a_connection_serves_many_requests(served: Served) -> None:
    with served.connect() as connection:
        for _ in range(20):
            connection.sendall(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = read_answer(connection)
            assert answer.body == BODY
            assert "Connection" not in answer.headers
        connection.sendall(b"GET /version?device=a HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert read_answer(connection).headers["Connection"] == "close"
        assert ended(connection)


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    served.get("/version?device=a")
    poll = "GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = served.ask(poll * 3 + "GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.raw.count(b"HTTP/1.1 200 OK") == 4
    assert answer.raw.endswith(CONTENT)


@pytest.mark.parametrize(
    "path", ["/version?device=a", "/firmware?device=a", "/version?device=unknown", "/none"]
)
def test_head_is_answered_like_get_without_the_body(served: Served, path: str) -> None:
    served.get("/version?device=a")
    got = served.get(path)
    head = served.get(path, method="HEAD")
    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")


@pytest.mark.parametrize(
    "request_text",
    [
        b"NONSENSE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /version?device=a HTTP/9.9\r\n\r\n",
        b"GET /version?device=a HTTP/1.1\r\nbroken header\r\n\r\n",
        b"GET /version?device=a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /api/v1/poll HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_gets_400_and_is_closed(served: Served, request_text: bytes) -> None:
    answer = served.ask(request_text)
    assert answer.status in (400, 404, 405)
    assert answer.headers["Connection"] == "close"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert answer.body[:1].isalpha()


def test_an_error_never_gets_into_a_running_response(served: Served) -> None:
    served.get("/version?device=a")
    with served.connect() as connection:
        connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\nNONSENSE\r\n\r\n")
        raw = b""
        while part := connection.recv(65536):
            raw += part
    assert Answer(raw).body.startswith(CONTENT)
    assert raw.count(b"HTTP/1.1 200") == 1


def test_a_client_may_close_its_side_first(served: Served) -> None:
    served.get("/version?device=a")
    with served.connect() as connection:
        connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        raw = b""
        while part := connection.recv(65536):
            raw += part
    assert Answer(raw).body == CONTENT


def test_an_upgrade_is_ignored(served: Served) -> None:
    """`curl --http2` asks for one."""
    answer = served.ask(
        b"GET /version?device=a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
    )
    assert (answer.status, answer.body) == (200, BODY)


def test_expect_continue_is_granted(served: Served) -> None:
    body = b'{"device":"a"}'
    with served.connect() as connection:
        connection.sendall(
            b"POST /api/v1/poll HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).status == 200


def test_a_head_without_end_is_refused(limited: Callable[..., Served]) -> None:
    served = limited(max_head_bytes=1024)
    with served.connect() as connection, contextlib.suppress(OSError):
        connection.sendall(b"GET /version?device=a HTTP/1.1\r\n")
        for i in range(10_000):
            connection.sendall(b"X-%d: %s\r\n" % (i, b"y" * 100))
        pytest.fail("the server reads heads without end")
    assert (
        b"431"
        in served.ask(b"GET /version?device=a HTTP/1.1\r\nX: " + b"y" * 2000).raw.split(b"\r\n")[0]
    )


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"GET /vers",
        b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v1/poll HTTP/1.1\r\nContent-Length: 20\r\n\r\n{",
    ],
    ids=["nothing", "line end", "request line", "half a head", "half a body"],
)
def test_a_request_must_come_in_time(limited: Callable[..., Served], sent: bytes) -> None:
    served = limited(request_seconds=0.2)
    with served.connect() as connection:
        connection.sendall(sent)
        assert ended(connection)


def test_line_ends_at_intervals_do_not_extend_the_deadline(
    limited: Callable[..., Served],
) -> None:
    served = limited(request_seconds=0.3)
    with served.connect() as connection:
        connection.settimeout(0.05)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"\r\n")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("line ends keep a connection open")


def test_an_idle_connection_is_closed(limited: Callable[..., Served]) -> None:
    served = limited(idle_seconds=0.2)
    with served.connect() as connection:
        connection.sendall(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.sendall(b"GET /none?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended(connection)


def test_a_body_that_nobody_reads_does_not_keep_a_connection(
    limited: Callable[..., Served],
) -> None:
    served = limited(idle_seconds=0.2)
    with served.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /api/v1/poll HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n")
        assert ended(connection)


def test_a_reader_that_stops_is_dropped(limited: Callable[..., Served]) -> None:
    served = limited(stall_seconds=0.3)
    served.offer("2.0.0", firmware("2.0.0", 32 << 20))
    served.get("/version?device=a")
    with served.connect() as connection:
        connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        served.wait(lambda: bool(_broken(served)))
        received = 0
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 20):
                received += len(part)
    assert received < 32 << 20


def test_a_response_must_not_take_for_ever(limited: Callable[..., Served]) -> None:
    served = limited(response_seconds=0.5, stall_seconds=1000)
    served.offer("2.0.0", firmware("2.0.0", 32 << 20))
    served.get("/version?device=a")
    with served.connect() as connection:
        connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
        served.wait(lambda: bool(_broken(served)))


def _broken(served: Served) -> float:
    registry = served.server.metrics.registry
    labels = {"protocol": "native", "result": "Broken"}
    return registry.get_sample_value("otaflux_downloads_total", labels) or 0.0


def test_connections_are_bounded(limited: Callable[..., Served]) -> None:
    served = limited(max_connections=3, request_seconds=1000)
    served.offer("1.4.0", CONTENT)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            held = stack.enter_context(served.connect())
            held.sendall(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(held).body == BODY
        assert ended(stack.enter_context(served.connect()))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the closed ones make room as soon as that is noticed
        with contextlib.suppress(ConnectionError, IndexError):
            if served.get("/version?device=a").status == 200:
                return
    pytest.fail("closed connections still count")


def test_bodies_are_bounded(limited: Callable[..., Served]) -> None:
    served = limited(max_body_bytes=100)
    large = b'{"device":"a","model":"' + b"x" * 150 + b'"}'
    answer = served.post("/api/v1/poll", large)
    assert answer.status == 413
    chunked = (
        b"POST /api/v1/poll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    )
    assert served.ask(chunked).status == 413


def test_the_protocol_still_finds_what_it_uses_of_uvicorn() -> None:
    for name in ("on_url", "on_header", "on_body", "_start_asgi_task", "connection_lost"):
        assert hasattr(DeviceHttpProtocol, name)
