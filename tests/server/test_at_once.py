"""Polls that need no waiting are answered without a task; everything else by the application."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.contract import State
from otaflux_server.device_app import DeviceApp
from tests.server.fleets import (
    NAMESPACE,
    Served,
    firmware,
    policy,
    release,
    serving,
    settings,
    version_body,
)

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


def test_a_version_poll_is_answered_at_once_but_for_the_first_offer(served: Served) -> None:
    assert at_once(served, scope("/version")) is None  # it has to be claimed
    assert served.get("/version?device=kitchen-1").body == BODY
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
    assert served.get("/version?device=kitchen-1").body == BODY
    assert at_once(served, scope("/version")).body == BODY
    assert served.get("/t/home/version?device=hall-1").body == BODY
    text = served.call(served.server.metrics.text).decode()
    assert 'otaflux_polls_total{protocol="native",reason="Offered"} 3.0' in text
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


SMALL = b"x" * 9
STATES: tuple[dict[str, Any], ...] = (
    {"target": release("1.4.0", CONTENT)},
    {"target": release("1.4.0", CONTENT), "compatibility": {"models": ["m"]}},
    {"target": release("1.4.0", CONTENT), "state": State.PAUSED},
    {"target": release("1.5.0", SMALL)},
    {"target": release("1.6.0", b"nobody has these bytes")},
    {},
)
QUERIES = (
    "",
    "?device",
    "?device=",
    "?device=a",
    "?device=b&version=1.4.0",
    "?device=b&version=2.0.0&model=m",
    "?device=%61%3A1&model=m+2",
    "?device=a&device=b",
    "?device=-a",
    "?device=a&version=%0A",
    "?device=a&version=" + "9" * 256,
    "?device=a&model=" + "x" * 257,
    "?other=1&device=a",
    "#fragment?device=a",
)
HEADS = (
    "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "HEAD {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "GET {} HTTP/1.0\r\n\r\n",
    "\r\nGET {} HTTP/1.1\r\nConnection: close\r\nIf-None-Match: *\r\nRange: bytes=0-1\r\n\r\n",
    "GET http://x{} HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}",
    "GET {} HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    "GET {0} HTTP/1.1\r\n\r\nGET {0} HTTP/1.1\r\nConnection: close\r\n\r\n",
    "POST {} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
)


def wait_until_stored(served: Served, digest: str) -> None:
    served.wait(lambda: served.server.artifacts.get(digest) is not None)


def conversation(served: Served) -> list[object]:
    """Every request in every state: the answers, and what is known afterwards."""
    seen: list[object] = []
    for content in (CONTENT, SMALL):
        served.source.add(content)
    for sequence, state in enumerate(STATES):
        served.apply(policy(sequence=sequence, **state))
        if "target" in state and state["target"].firmware.digest in served.source.blobs:
            wait_until_stored(served, state["target"].firmware.digest)
        for query in QUERIES:
            seen += [served.ask(head.format(f"/version{query}")).raw for head in HEADS]
            records = served.call(
                lambda: [
                    (each.device, each.protocol, each.reason, each.pinned, each.attributes)
                    for each in served.server.devices.page(100)
                ]
            )
            seen.append(records)
    text = served.call(served.server.metrics.text).decode()
    seen += [line for line in text.splitlines() if line.startswith(("otaflux_polls", "otaflux_re"))]
    return [item for item in seen if not (isinstance(item, str) and "_created" in item)]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_poll_has_the_same_answer_records_and_metrics_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    limits = {"connections": {"refusals_burst": 1e6, "requests_burst": 1e6}}
    with serving(settings(tmp_path / "fast", **limits), loop=loop) as served:
        fast = conversation(served)
    monkeypatch.setattr(DeviceApp, "at_once", lambda *_: None)
    with serving(settings(tmp_path / "slow", **limits), loop=loop) as served:
        slow = conversation(served)
    assert fast == slow
    assert any("otaflux_polls_total" in str(item) for item in fast)
    assert NAMESPACE in str(fast)
