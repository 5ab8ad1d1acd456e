"""DoS: what one client can take from the others, with each limit and without it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_server import downloads
from otaflux_server.connections import Connections
from otaflux_server.devices import Devices
from otaflux_server.http import DeviceHttpProtocol
from otaflux_server.ranges import Span
from otaflux_server.rates import Rates
from otaflux_server.refusals import Refusal
from otaflux_server.requests import Request
from otaflux_server.settings import ConnectionSettings
from otaflux_server.throttles import Throttle
from tests.server.fleets import (
    Answer,
    MemorySource,
    Served,
    firmware,
    policy,
    release,
    serving,
    settings,
)

BOTH = pytest.mark.parametrize("mitigated", [True, False])
ATTACKER, DEVICE = "127.0.0.2", "127.0.0.1"
POLL = b"GET /version?device=victim HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LARGE = 32 << 20
"""More bytes than the kernel's buffers of a connection hold."""

Limited = Callable[..., Served]


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Limited]:
    """Gives a server with these connection settings."""
    with contextlib.ExitStack() as stack:

        def start(**connections: object) -> Served:
            return stack.enter_context(serving(settings(tmp_path, connections=connections)))

        yield start


def connect(served: Served, source: str) -> socket.socket:
    host, port = served.server.device_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))


def serves_devices(served: Served) -> bool:
    """Whether a device that connects now gets an answer."""
    raw = b""
    with connect(served, DEVICE) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(POLL)
        while part := connection.recv(1 << 16):
            raw += part
    return raw.startswith(b"HTTP/1.1 200")


def hold(stack: contextlib.ExitStack, served: Served, count: int, sent: bytes) -> None:
    """Opens so many connections of the attacker, and says so much on each."""
    for _ in range(count):
        connection = stack.enter_context(connect(served, ATTACKER))
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)


@BOTH
@pytest.mark.parametrize(
    "sent",
    [
        b"GET /version?device=a HTTP/1.1\r\nX-A: b\r\n",
        b"POST /api/v1/poll HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["head", "body"],
)
def test_slowloris(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool, sent: bytes
) -> None:
    """Requests that never end hold every connection there is."""
    looks = 0
    if not mitigated:

        def never(connection: DeviceHttpProtocol, now: float) -> None:
            nonlocal looks
            looks += connection._deadline is not None and now > connection._deadline

        monkeypatch.setattr(DeviceHttpProtocol, "overdue", never)
    served = limited(max_connections=8, request_seconds=0.5)
    served.offer("1.4.0")
    with contextlib.ExitStack() as stack:
        hold(stack, served, 8, sent)
        served.wait(lambda: mitigated or looks > 20)
        if mitigated:
            served.wait(lambda: not served.server.connections._open)
        assert serves_devices(served) is mitigated


@BOTH
def test_connections_of_one_address(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(Connections, "_has_enough", lambda *_: False)
    served = limited(max_connections=8, max_connections_per_address=4, request_seconds=1000)
    served.offer("1.4.0")
    with contextlib.ExitStack() as stack:
        hold(stack, served, 8, b"G")
        held = 4 if mitigated else 8
        served.wait(lambda: served.server.connections._open.get(ATTACKER) == held)
        assert serves_devices(served) is mitigated


@BOTH
def test_a_hundred_ranges_at_once(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """One device, each time for nearly all of the bytes, and it reads none of them."""
    if not mitigated:
        monkeypatch.setattr(Throttle, "download", lambda *_: None)
    served = limited(max_downloads_per_device=4)
    served.offer("1.4.0", firmware("1.4.0", LARGE))
    served.get("/version?device=attacker")
    running = served.server.fleet.deliveries
    refused = served.server.metrics.registry.get_sample_value
    labels = {"status": "429", "reason": "TooManyDownloads"}
    with contextlib.ExitStack() as stack:
        for first in range(100):
            connection = stack.enter_context(connect(served, ATTACKER))
            connection.sendall(
                b"GET /firmware?device=attacker HTTP/1.1\r\nRange: bytes=%d-\r\n\r\n" % first
            )
        served.wait(
            lambda: len(running) + (refused("otaflux_requests_refused_total", labels) or 0) == 100
        )
        assert len(running) == (4 if mitigated else 100)
        assert serves_devices(served)


@BOTH
def test_a_hundred_ranges_in_one_header(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """One request for a hundred times the bytes. The mitigation is that there is one range only."""
    content, asked = firmware("1.4.0"), 0

    def all_of_them(request: Request, *_: object) -> Span | None:
        ranges = (request.header(b"range") or "").count("-")
        return Span(0, ranges * len(content)) if ranges else None

    async def over_and_over(handle: int, size: int, offset: int) -> bytes:
        nonlocal asked
        asked += size
        whole = os.pread(handle, len(content), 0)
        return (whole * (size // len(whole) + 2))[offset % len(whole) :][:size]

    if not mitigated:
        monkeypatch.setattr(downloads, "_asked_span", all_of_them)
        monkeypatch.setattr(downloads, "_read", over_and_over)
    served = limited()
    served.offer("1.4.0", content)
    served.get("/version?device=attacker")
    answer = served.get("/firmware?device=attacker", "Range: bytes=" + ",".join(["0-"] * 100))
    if mitigated:
        assert (answer.status, answer.body) == (200, content)
    else:
        assert (answer.status, len(answer.body)) == (206, 100 * len(content))
        assert asked == 100 * len(content)


@BOTH
def test_a_huge_body(limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    """What is larger than any poll is held in memory."""
    read = Request.read
    if not mitigated:
        monkeypatch.setattr(Request, "read", lambda request, _: read(request, LARGE))
        monkeypatch.setattr(DeviceHttpProtocol, "_max_message", LARGE)
    served = limited()
    body = b'{"device":"attacker","x":"%s"}' % (b"y" * (4 << 20))
    head = b"POST /api/v1/poll HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    raw = b""
    with connect(served, ATTACKER) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head % len(body) + body)
        while part := connection.recv(1 << 16):
            raw += part
    if mitigated:
        assert not raw or Answer(raw).status == 413
    else:
        assert Answer(raw).status == 200


@BOTH
def test_a_head_without_end(limited: Limited, mitigated: bool) -> None:
    served = limited(max_head_bytes=4096 if mitigated else 1 << 30)
    served.offer("1.4.0")
    raw = b""
    with connect(served, ATTACKER) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /version?device=attacker HTTP/1.1\r\nConnection: close\r\n")
        for number in range(10_000):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 100))
        connection.sendall(b"\r\n")
        while part := connection.recv(1 << 16):
            raw += part
    assert raw.startswith(b"HTTP/1.1 200") is not mitigated


@BOTH
def test_polls_without_end(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """One device polls as fast as it can."""
    if not mitigated:
        monkeypatch.setattr(Throttle, "ask", lambda *_: None)
    served = limited(requests_per_second=0.1, requests_burst=20)
    served.offer("1.4.0")
    statuses = [served.get("/version?device=attacker").status for _ in range(200)]
    assert statuses[:20] == [200] * 20
    assert set(statuses[40:]) == ({429} if mitigated else {200})
    assert serves_devices(served)


@BOTH
def test_refusals_without_end(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Requests of nobody: as costly as any, and none of a device that has its own limit."""
    bodies = 0
    read = Request.read
    if not mitigated:
        monkeypatch.setattr(Throttle, "refused", lambda *_: None)

    async def counted(request: Request, limit: int) -> None:
        nonlocal bodies
        bodies += 1
        await read(request, limit)

    monkeypatch.setattr(Request, "read", counted)
    served = limited(refusals_per_second=0.1, refusals_burst=20, shared_addresses=[f"{DEVICE}/32"])
    served.offer("1.4.0")
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(connect(served, ATTACKER))
            connection.sendall(
                b"POST /api/v1/poll HTTP/1.1\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
            )
            assert connection.recv(1 << 16)[9:12] in (b"400", b"429")
    assert bodies < 40 if mitigated else bodies == 200
    assert serves_devices(served)


@BOTH
def test_a_reader_that_takes_nothing(
    limited: Limited, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """It keeps a transfer, and a place among those that its ring may have at one time."""
    looks = 0
    if not mitigated:

        def never(connection: DeviceHttpProtocol, now: float) -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(DeviceHttpProtocol, "overdue", never)
    served = limited(stall_seconds=0.3)
    served.offer("1.4.0", firmware("1.4.0", LARGE))
    served.get("/version?device=attacker")
    with connect(served, ATTACKER) as connection:
        connection.sendall(b"GET /firmware?device=attacker HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1)
        running = served.server.fleet.deliveries
        served.wait(lambda: not len(running) or looks > 20)
        assert len(running) == (0 if mitigated else 1)


@BOTH
def test_ids_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    """A scanner that is another device each time fills the memory with devices and their limits."""
    if not mitigated:
        monkeypatch.setattr(Devices, "limit", property(lambda _: 1 << 60, lambda *_: None), False)
    with serving(settings(tmp_path, max_devices=20)) as served:
        served.offer("1.4.0")
        for number in range(200):
            served.get(f"/version?device=attacker-{number}")
        kept = served.call(lambda: len(served.server.devices))
        assert (kept <= 21) is mitigated, kept
        assert serves_devices(served)


@BOTH
def test_addresses_without_end(monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    """Requests of nobody from another address each time fill the memory with their limits."""
    if not mitigated:
        take = Rates.take

        def keeps(rates: Rates[Any], *asked: Any) -> float:
            rates._half = 1 << 60
            return take(rates, *asked)

        monkeypatch.setattr(Rates, "take", keeps)
    throttle = Throttle(ConnectionSettings(), lambda _: False)
    for number in range(20_000):
        throttle.refused(f"2001:db8:0:{number:x}::1", Refusal.TOKEN_UNKNOWN)
    assert (len(throttle._refused) <= 16_385) is mitigated


class Forgetful(dict[str, Any]):
    """Does not know what is under way."""

    def __contains__(self, _: object) -> bool:
        return False


@BOTH
def test_many_rollouts_of_one_artifact(tmp_path: Path, mitigated: bool) -> None:
    """Whoever may write rollouts has the registry asked, and the disk filled, once for each."""
    content, source = firmware("1.4.0"), MemorySource()
    source.add(content)
    pulls = {"artifacts": {"concurrent_pulls": 100, "retry_seconds": 0.01}}
    with serving(settings(tmp_path, **pulls), source=source) as served:
        fetcher, gate = served.server._fetcher, served.call(asyncio.Event)
        source.gate = gate
        if not mitigated:
            fetcher._tasks = Forgetful()
        target = release("1.4.0", content)
        for number in range(20):
            served.apply(policy(f"rollout-{number}", target=target, priority=number))
            served.apply(policy("other", target=release(f"2.0.{number}")))
        served.wait(lambda: target.firmware.digest in source.pulls)
        running = source.pulls.count(target.firmware.digest)
        served.call(gate.set)
        assert (running == 1) is mitigated, running
        served.stored(target)
        assert serves_devices(served)
