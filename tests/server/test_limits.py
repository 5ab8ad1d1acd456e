"""What devices may cost the server, by raw sockets: each limit, its metric and its log line."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from otaflux_server.connections import Connections, Drop
from otaflux_server.metrics import Metrics
from otaflux_server.refusals import Refusal
from otaflux_server.settings import ConnectionSettings
from tests.server.fleets import Served, firmware, serving, settings

SIZE = 32 << 20
"""More than the kernel's buffers of a connection hold."""
DOWNLOAD = b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n"

Limited = Callable[..., Served]


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Limited]:
    """Gives a server with these connection settings."""
    with contextlib.ExitStack() as stack:

        def start(**connections: object) -> Served:
            options = settings(tmp_path, connections=connections)
            return stack.enter_context(serving(options))

        yield start


def dropped(served: Served, reason: Drop) -> float:
    labels = {"reason": reason.value}
    registry = served.server.metrics.registry
    return registry.get_sample_value("otaflux_connections_dropped_total", labels) or 0.0


def refused(served: Served, status: int, reason: Refusal) -> float:
    labels = {"status": str(status), "reason": reason.value}
    registry = served.server.metrics.registry
    return registry.get_sample_value("otaflux_requests_refused_total", labels) or 0.0


def closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection without a word (within the socket's timeout)."""
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


def offered(served: Served, device: str = "a", size: int = 4096) -> None:
    """A release that the device, which runs it, may fetch as often as it likes."""
    if served.server.policies.policy("home", "thermostat") is None:
        served.offer("2.0.0", firmware("2.0.0", size))
    for said in ("", "&version=2.0.0"):
        assert served.get(f"/version?device={device}{said}").status == 200


def test_an_address_has_so_many_connections(limited: Limited) -> None:
    served = limited(max_connections_per_address=3, request_seconds=1000)
    with contextlib.ExitStack() as stack, capture_logs() as lines:
        for _ in range(3):
            stack.enter_context(served.connect())
        served.wait(lambda: sum(served.server.connections._open.values()) == 3)
        for _ in range(5):
            assert closed(stack.enter_context(served.connect()))
        assert dropped(served, Drop.TOO_MANY_OF_ADDRESS) == 5
        told = [line for line in lines if line["event"] == "connection dropped"]
    assert (told[0]["reason"], told[0]["peer"]) == ("TooManyOfAddress", "127.0.0.1")
    assert len(told) <= 2
    served.wait(lambda: not served.server.connections._open)
    assert served.get("/version?device=a").status == 404


def test_a_shared_address_has_as_many_as_there_are(limited: Limited) -> None:
    served = limited(max_connections_per_address=1, shared_addresses=["127.0.0.0/8"])
    with served.connect(), served.connect():
        served.wait(lambda: sum(served.server.connections._open.values()) == 2)
        assert served.get("/version?device=a").status == 404
    assert dropped(served, Drop.TOO_MANY_OF_ADDRESS) == 0


@pytest.mark.parametrize(
    ("peer", "shared"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
        ("", True),
    ],
)
def test_which_addresses_are_shared(peer: str, shared: bool) -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert Connections(ConnectionSettings(), networks, Metrics()).is_shared(peer) is shared


def test_a_reader_that_goes_too_slowly_is_dropped(limited: Limited) -> None:
    """It takes bytes all the time, so that it never stalls."""
    served = limited(stall_seconds=0.05, min_bytes_per_second=1e12)
    offered(served, size=SIZE)
    received = 0
    with served.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(DOWNLOAD)
        while part := connection.recv(256):
            received += len(part)
    assert received < SIZE
    assert dropped(served, Drop.READER_TOO_SLOW) + dropped(served, Drop.READER_STALLED) == 1


def test_a_reader_at_a_fair_pace_gets_everything(limited: Limited) -> None:
    served = limited(stall_seconds=0.2, min_bytes_per_second=1)
    offered(served, size=SIZE)
    with served.connect() as connection:
        connection.sendall(DOWNLOAD)
        received = 0
        while part := connection.recv(1 << 20):
            received += len(part)
    assert received > SIZE


def test_a_device_has_so_many_downloads_at_one_time(limited: Limited) -> None:
    served = limited(max_downloads_per_device=2)
    for device in ("a", "b"):
        offered(served, device, SIZE)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(served.connect())
            connection.sendall(DOWNLOAD)
            assert connection.recv(1)
        answer = served.get("/firmware?device=a")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
        assert refused(served, 429, Refusal.TOO_MANY_DOWNLOADS) == 1
        assert served.get("/firmware?device=a", method="HEAD").status == 200
        assert served.get("/firmware?device=b", "Range: bytes=0-9").status == 206
    served.wait(lambda: len(served.server.fleet.deliveries) == 0)
    assert served.get("/firmware?device=a", "Range: bytes=0-9").status == 206


def test_a_device_that_asks_too_often_is_told_when_to_ask_again(limited: Limited) -> None:
    served = limited(requests_per_second=0.01, requests_burst=2)
    offered(served)  # takes both
    with capture_logs() as lines:
        answer = served.get("/version?device=a")
    assert answer.status == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 200
    assert answer.body.startswith(b"Error: ")
    body = b'{"device":"a"}'
    assert served.post("/api/v1/poll", body).status == 429
    assert served.post("/t/home/api/v1/poll", body).status == 429
    assert refused(served, 429, Refusal.TOO_MANY_REQUESTS) == 3
    assert [line["reason"] for line in lines if line["event"] == "request refused"] == [
        "TooManyRequests"
    ]
    assert served.get("/version?device=b").status == 200


def test_a_poll_for_which_the_database_is_asked_is_one_request(limited: Limited) -> None:
    served = limited(requests_per_second=0.01, requests_burst=1)
    served.call(lambda: setattr(served.server.devices, "incomplete", True))
    assert served.get("/version?device=a").status == 404
    assert served.get("/version?device=a").status == 429


def test_a_download_in_256_ranges_does_not_trip(limited: Limited) -> None:
    served = limited()
    offered(served)
    part = 4096 // 256
    with served.connect() as connection:
        file = connection.makefile("rb")
        for number in range(256):
            path = "/artifacts/sha256/" + served.source.pulls[0].removeprefix("sha256:")
            connection.sendall(
                f"GET {path}?device=a HTTP/1.1\r\nHost: x\r\n"
                f"Range: bytes={number * part}-{number * part + part - 1}\r\n\r\n".encode()
            )
            assert file.readline() == b"HTTP/1.1 206 Partial Content\r\n"
            while file.readline() != b"\r\n":
                pass
            assert len(file.read(part)) == part


def test_an_address_whose_requests_are_refused_is_told_to_wait(limited: Limited) -> None:
    served = limited(refusals_per_second=0.01, refusals_burst=3)
    offered(served)
    for _ in range(3):
        assert served.get("/version?device=%20").status == 400
    assert served.get("/version?device=a").status == 429
    assert refused(served, 429, Refusal.TOO_MANY_REFUSALS) == 1


def test_unknown_paths_count_as_refusals(limited: Limited) -> None:
    served = limited(refusals_per_second=0.01, refusals_burst=2)
    for _ in range(2):
        assert served.get("/wp-login.php").status == 404
    assert served.get("/version?device=a").status == 429


def test_a_hundred_ranges_in_one_header_are_one_answer(limited: Limited) -> None:
    served = limited()
    offered(served)
    answer = served.get("/firmware?device=a", "Range: bytes=" + ",".join(["0-"] * 100))
    assert answer.status == 200
    assert len(answer.body) == 4096


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"hello\r\n\r\n", 400, Refusal.NOT_HTTP),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431, Refusal.HEAD_TOO_LARGE),
        (
            b"POST /api/v1/poll HTTP/1.1\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n"
            + b"x" * 70_000,
            413,
            Refusal.BODY_TOO_LARGE,
        ),
    ],
    ids=["no HTTP", "head", "body"],
)
def test_what_is_refused_has_its_reason(
    limited: Limited, sent: bytes, status: int, reason: Refusal
) -> None:
    served = limited()
    with capture_logs() as lines:
        assert served.ask(sent).status == status
    assert refused(served, status, reason) == 1
    assert [line["reason"] for line in lines if line["event"] == "request refused"] == [reason]


@pytest.mark.parametrize(
    ("limits", "sent", "reason"),
    [
        ({"request_seconds": 0.2}, b"GET /version HTTP/1.1\r\nX: y", Drop.REQUEST_TOO_SLOW),
        ({"request_seconds": 0.2}, b"", Drop.REQUEST_TOO_SLOW),
        (
            {"request_seconds": 0.2},
            b"POST /api/v1/poll HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
            Drop.REQUEST_TOO_SLOW,
        ),
        (
            {"idle_seconds": 0.2},
            b'POST /api/v1/poll HTTP/1.1\r\nContent-Length: 14\r\n\r\n{"device":"a"}',
            Drop.IDLE,
        ),
        ({"stall_seconds": 0.2}, DOWNLOAD, Drop.READER_STALLED),
        ({"response_seconds": 2.0}, DOWNLOAD, Drop.RESPONSE_TOO_LONG),
    ],
    ids=["head", "nothing", "body", "idle", "stalled", "too long"],
)
def test_what_is_dropped_has_its_reason(
    limited: Limited, limits: dict[str, float], sent: bytes, reason: Drop
) -> None:
    served = limited(**limits)
    if sent == DOWNLOAD:
        offered(served, size=SIZE)
    with served.connect() as connection:
        connection.sendall(sent)
        served.wait(lambda: dropped(served, reason) == 1)
