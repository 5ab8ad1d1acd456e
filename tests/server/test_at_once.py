"""Polls that need no waiting are answered without a task; everything else by the application."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.fleets import Served, firmware, serving, settings, version_body

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path)) as server:
        server.offer("1.4.0", CONTENT)
        yield server


def scope(path: str, method: str = "GET", query: bytes = b"device=kitchen-1") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "query_string": query, "headers": []}


def at_once(served: Served, asked: dict[str, Any]) -> Any:
    return served.call(lambda: served.server.device_app.at_once(asked))


def test_a_version_poll_is_answered_at_once(served: Served) -> None:
    reply = at_once(served, scope("/version"))
    assert (reply.status, reply.body) == (200, BODY)


def test_so_is_one_that_is_refused(served: Served) -> None:
    assert at_once(served, scope("/version", query=b"")).status == 400


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/version", "POST"),
        ("/t/home/version", "GET"),
        ("/firmware", "GET"),
        ("/api/v1/poll", "POST"),
        ("/nothing", "GET"),
    ],
)
def test_all_else_is_left_to_the_application(served: Served, path: str, method: str) -> None:
    assert at_once(served, scope(path, method)) is None


def test_polls_are_counted_and_devices_known_either_way(served: Served) -> None:
    at_once(served, scope("/version"))
    assert served.get("/t/home/version?device=hall-1").body == BODY
    text = served.call(served.server.metrics.text).decode()
    assert 'otaflux_polls_total{protocol="native",reason="Offered"} 2.0' in text
    assert served.call(lambda: len(served.server.devices)) == 2


def test_a_fault_of_ours_is_answered_500(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(served.server.decisions, "decide", broken)
    answer = served.get("/version?device=kitchen-1")
    assert answer.status == 500
    assert answer.body == b"Internal Server Error"
    monkeypatch.undo()
    assert served.get("/version?device=kitchen-1").body == BODY
