"""Abort, breaker and deletion cut what is being downloaded; a pause lets it be finished."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.attempts import AttemptState
from otaflux_policy.contract import FailureAction, FailureRule, ReleaseRun, Ring, State
from tests.server.fleets import Served, firmware, release, serving, settings

CONTENT = firmware("1.4.0", 32 << 20)
TARGET = release("1.4.0", CONTENT)
RING = Ring(
    name="all",
    open=True,
    failure=FailureRule(max_percent=20, min_sample=1, action=FailureAction.PAUSE),
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path, evidence={"scan_seconds": 0})) as server:
        server.offer("1.4.0", CONTENT, rings=(RING,))
        yield server


@contextlib.contextmanager
def downloading(served: Served, path: str = "/firmware") -> Iterator[socket.socket]:
    """A device that takes a little and then nothing more."""
    served.get("/version?device=a&version=1.3.2")
    with served.connect() as connection:
        connection.sendall(f"GET {path}?device=a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(1000)
        served.wait(lambda: len(served.server.fleet.deliveries) == 1)
        yield connection


def rest(connection: socket.socket) -> int:
    """How many bytes still come; -1: the connection was reset."""
    received = 0
    try:
        while part := connection.recv(1 << 20):
            received += len(part)
    except ConnectionResetError:
        return -1
    return received


def change(served: Served, **fields: Any) -> None:
    served.publish(**({"sequence": 1, "target": TARGET, "rings": (RING,)} | fields))


GONE = ReleaseRun(version="1.4.0", digest=TARGET.digest, run=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": State.ABORTED},
        {"tripped": True},
        {"run": 2, "stable": release("1.3.2"), "rolling_back": True, "rollback_from": (GONE,)},
        None,
    ],
)
def test_what_is_withdrawn_is_cut_though_its_reader_is_slow(
    served: Served, fields: dict[str, Any] | None
) -> None:
    with downloading(served) as connection:
        if fields is None:
            served.remove("thermostat")
        else:
            change(served, **fields)
        served.wait(lambda: len(served.server.fleet.deliveries) == 0)
        assert rest(connection) < len(CONTENT) - 1000
    text = served.call(served.server.metrics.text).decode()
    assert 'otaflux_downloads_total{protocol="native",result="Broken"} 1.0' in text
    assert served.facts("a").downloads == ()
    assert served.facts("a").first_byte is not None
    assert served.get("/firmware?device=a").status == 404


def test_a_breaker_that_this_server_opens_cuts_and_stops_at_once(served: Served) -> None:
    with downloading(served) as connection:
        served.get("/version?device=b&version=1.3.2")
        served.get("/version?device=c&version=1.3.2")
        served.report("b", "1.4.0", "Failed", code="Bricked")
        served.wait(lambda: len(served.server.fleet.deliveries) == 0)
        assert rest(connection) < len(CONTENT) - 1000
    assert served.reason("a", "&version=1.3.2") == "BreakerOpen"
    assert served.reason("c", "&version=1.3.2") == "BreakerOpen"
    assert served.reason("d", "&version=1.3.2") == "BreakerOpen"
    assert served.get("/firmware?device=c").status == 404
    served.wait(lambda: not served.server.fleet._learning.offered)
    assert served.facts("c").offer_ended is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"state": State.PAUSED},
        {"windows": [{"schedule": "0 0 29 2 *", "duration": 1}]},
        {"run": 2, "target": release("1.5.0")},
    ],
)
def test_what_only_stops_others_lets_it_be_finished(served: Served, fields: dict[str, Any]) -> None:
    with downloading(served) as connection:
        change(served, **fields)
        assert rest(connection) > len(CONTENT) - 1000
    served.wait(lambda: len(served.server.fleet.deliveries) == 0)
    assert len(served.facts("a").downloads) == 1


def test_a_window_that_closes_ends_no_download(served: Served) -> None:
    with downloading(served):
        change(served, windows=[{"schedule": "0 0 29 2 *", "duration": 1}])
        assert served.reason("a", "&version=1.3.2") == "Offered"
        assert served.reason("b", "&version=1.3.2") == "OutsideWindow"
        assert served.state("a") is AttemptState.DOWNLOADING


def test_other_rollouts_go_on(served: Served) -> None:
    with downloading(served):
        served.publish(
            name="other",
            target=release("2.0.0"),
            device_selector={"names": ["z"]},
            state=State.ABORTED,
        )
        assert len(served.server.fleet.deliveries) == 1
