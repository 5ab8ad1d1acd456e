"""`explain` tells every rule that was looked at, and what the device waits for."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from otaflux_policy.contract import FailureAction, FailureRule, Ring, State
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.windows import Window
from otaflux_server.explaining import waits
from tests.server.fleets import Served, firmware, group, policy, release

CONTENT = firmware("1.4.0")


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.server.internal_url) as client:
        yield client


def explain(api: httpx.Client, device: str, **query: str) -> dict[str, Any]:
    answer = api.get(f"/internal/v1/devices/home/{device}/explain", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def report(served: Served, device: str, state: str, **fields: str) -> None:
    body = {"device": device, "release": "1.4.0", "state": state} | fields
    assert served.post("/api/v1/report", json.dumps(body).encode()).status == 200


def test_an_attempt_is_followed_to_its_end(served: Served, api: httpx.Client) -> None:
    target = served.offer("1.4.0", CONTENT, run=2, device_timeout=3600, active_within=7200)
    served.apply(group("some", names=("a",)))
    before = explain(api, "a")
    assert (before["attempt"], before["countsIn"]) == (None, {})
    assert before["waitsFor"] == "the device to fetch the release"

    served.get("/version?device=a&version=1.3.0")
    found = explain(api, "a")
    assert (found["reason"], found["attempt"]["state"]) == ("Offered", "Offered")
    assert (found["attempt"]["run"], found["attempt"]["digest"]) == (2, target.digest)
    assert found["waitsFor"] == "the device to fetch the first byte"
    offered = datetime.fromisoformat(found["attempt"]["facts"]["lastOffer"])
    until = datetime.fromisoformat(found["times"]["attemptUntil"])
    assert until - offered == timedelta(hours=1)
    seen = datetime.fromisoformat(found["times"]["activeUntil"])
    assert abs(seen - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=5)
    assert found["countsIn"] == {"thermostat": "all"}

    served.get("/firmware?device=a")
    assert explain(api, "a")["attempt"]["state"] == "Downloaded"
    report(served, "a", "Installing")
    found = explain(api, "a")
    assert (found["attempt"]["state"], found["waitsFor"]) == (
        "Installing",
        "the device to report the release's version",
    )
    report(served, "a", "Failed", code="no-boot")
    found = explain(api, "a")
    assert (found["reason"], found["attempt"]["code"]) == ("PreviouslyFailed", "no-boot")
    assert found["waitsFor"] == "a new release, or another `retryToken`"
    served.get("/version?device=a&version=1.4.0")
    found = explain(api, "a")
    assert (found["reason"], found["attempt"]["state"]) == ("UpToDate", "Updated")
    assert found["waitsFor"] == "nothing: it runs the release"


def test_slots_are_shown(served: Served, api: httpx.Client) -> None:
    served.offer("1.4.0", CONTENT, rings=(Ring(name="all", open=True, max_concurrent=1),))
    found = explain(api, "a")
    assert found["slots"] == {"ring": "all", "maxConcurrent": 1, "free": 1}
    assert found["reason"] == "Offered"
    served.get("/version?device=a&version=1.3.0")
    served.get("/version?device=b&version=1.3.0")
    found = explain(api, "b")
    assert (found["reason"], found["slots"]["free"]) == ("ConcurrencyLimit", 0)
    assert found["waitsFor"] == "another device of its ring to come to an outcome"


def test_windows_are_shown(served: Served, api: httpx.Client) -> None:
    now = datetime.now(UTC)
    far = now + timedelta(hours=12)
    window = Window(schedule=f"{far.minute} {far.hour} * * *", duration=3600)
    served.offer("1.4.0", CONTENT, windows=(window,))
    found = explain(api, "a")
    assert (found["reason"], found["windows"]["open"]) == ("OutsideWindow", False)
    opens = far.replace(second=0, microsecond=0)
    assert datetime.fromisoformat(found["windows"]["nextChange"]) == opens
    assert found["waitsFor"] == f"a window: the next one opens at {opens:%Y-%m-%d %H:%M} UTC"


def test_the_breaker_is_shown(served: Served, api: httpx.Client) -> None:
    rule = FailureRule(max_percent=0, min_sample=1, action=FailureAction.PAUSE)
    served.offer("1.4.0", CONTENT, rings=(Ring(name="all", open=True, failure=rule),))
    served.apply(group("some", names=("a", "b")))
    served.get("/version?device=a&version=1.3.0")
    expected = {"open": False, "trip": None, "maxPercent": 0, "minSample": 1}
    found = explain(api, "b")
    assert found["breaker"] == expected | {"failed": 0, "updated": 0}
    served.get("/firmware?device=a")
    report(served, "a", "Failed", code="x")
    found = explain(api, "b")
    assert found["reason"] == "BreakerOpen"
    assert (found["breaker"]["open"], found["breaker"]["failed"]) == (True, 1)
    assert found["breaker"]["trip"]["ring"] == "all"


def test_who_does_not_count_is_told_why(served: Served, api: httpx.Client) -> None:
    served.apply(policy(), group("some", names=("a", "late", "lab-*")))
    for device in ("a", "lab-1"):
        served.get(f"/version?device={device}")
    assert explain(api, "a")["counted"] == {"holds": True, "detail": "a group names it"}
    scanner = explain(api, "lab-1")
    assert scanner["counted"]["holds"] is False
    assert "600 s apart" in scanner["counted"]["detail"]
    assert scanner["countsIn"] == {}
    assert "never heard of" in explain(api, "nobody")["counted"]["detail"]
    assert explain(api, "late")["counted"]["holds"] is False


def test_what_closed_rings_wait_for(served: Served, api: httpx.Client) -> None:
    rings = (Ring(name="canary", selector={"names": ["c*"]}),)
    served.apply(policy(target=release("1.4.0"), rings=rings))
    assert explain(api, "c1")["waitsFor"] == "ring canary to open"
    assert explain(api, "d1")["waitsFor"] == "a ring that takes the device: it is in none"
    served.apply(policy(target=release("1.4.0"), rings=rings, state=State.PAUSED, sequence=1))
    assert explain(api, "c1")["waitsFor"] == "the rollout to go on (`state: Active`)"


def test_a_device_that_is_not_read_yet_waits_for_the_database(
    served: Served, api: httpx.Client
) -> None:
    served.offer("1.4.0", CONTENT)
    served.get("/version?device=a")
    record = served.server.devices.get("home", "a")
    assert record is not None
    record.unread = True
    found = explain(api, "a")
    assert found["reason"] == "Hold"
    assert "the database" in found["waitsFor"]


@pytest.mark.parametrize("reason", DecisionReason)
def test_every_reason_says_what_it_waits_for(reason: DecisionReason) -> None:
    assert waits(reason)
