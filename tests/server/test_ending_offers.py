"""Offers end that are withdrawn, and no clock keeps a device waiting."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otaflux_policy.attempts import AttemptState
from otaflux_policy.contract import State
from tests.server.attempting import CLOSED, CONTENT, OLD, QUICK, TARGET, ranges
from tests.server.fleets import (
    Served,
    release,
    serving,
    settings,
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path, evidence=QUICK)) as server:
        server.offer("1.4.0", CONTENT)
        yield server


@pytest.mark.parametrize(
    "change",
    [
        {"state": State.PAUSED},
        {"state": State.ABORTED},
        {"tripped": True},
        {"rings": CLOSED},
        {"run": 2, "target": release("1.5.0")},
        {"windows": [{"schedule": "0 0 29 2 *", "duration": 1}]},
        {"device_selector": {"names": ["others"]}},
        None,
    ],
)
def test_an_offer_ends_that_is_withdrawn_before_its_first_byte(
    served: Served, change: dict[str, object] | None
) -> None:
    """Without a further word from the device."""
    served.get(f"/version?device=a{OLD}")
    if change is None:
        served.remove("thermostat")
    else:
        served.publish(**({"sequence": 1, "target": release("1.4.0", CONTENT)} | change))
    served.wait(lambda: not served.server.fleet._learning.offered)
    ended = served.facts("a").offer_ended
    assert ended is not None
    assert served.get("/firmware?device=a").status == 404


def test_a_download_that_began_goes_on_as_an_attempt_through_a_pause(served: Served) -> None:
    served.get(f"/version?device=a{OLD}")
    ranges(served, (0, 9))
    served.publish(sequence=1, target=release("1.4.0", CONTENT), state=State.PAUSED)
    assert served.reason("a", OLD) == "Paused"
    assert served.facts("a").offer_ended is None
    served.publish(sequence=2, target=release("1.4.0", CONTENT))
    assert served.reason("a", OLD) == "Offered"
    assert served.state("a") is AttemptState.DOWNLOADING


def follow(served: Served, clock: Callable[[], float]) -> None:
    """Has the server tell the time by this clock."""
    server = served.server
    server.fleet._clock = server.decisions._clock = clock
    server._learning._clock = server.fleet._offers._clock = clock
    server.fleet._withdrawals._clock = clock


def test_an_offer_ends_when_its_window_closes(served: Served) -> None:
    """Without a word from the device, and in time for its next one."""
    window = {"schedule": "0 2 * * *", "duration": 3600}
    server = served.server
    now = datetime(2026, 3, 1, 2, 30, tzinfo=UTC).timestamp()

    follow(served, lambda: now)
    served.publish(sequence=1, target=release("1.4.0", CONTENT), windows=[window])
    assert served.reason("a", OLD) == "Offered"
    assert served.reason("b", OLD) == "Offered"
    ranges(served, (0, 9), device="b")
    now += 3600
    assert served.reason("a", OLD) == "OutsideWindow"
    assert served.facts("a").offer_ended is not None
    assert served.get("/firmware?device=a").status == 404
    assert served.reason("b", OLD) == "Offered"
    now += 23 * 3600
    assert served.reason("a", OLD) == "Offered"
    assert served.state("a") is AttemptState.OFFERED
    now += 3600
    served.call(server.fleet.rules_changed)
    served.wait(lambda: not server.fleet._learning.offered)


def test_a_clock_that_goes_back_keeps_no_device_waiting(served: Served) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    follow(served, lambda: now)
    assert served.reason("a") == "Offered"
    served.publish(sequence=1, target=TARGET, state=State.PAUSED)
    assert served.reason("a") == "Paused"
    now -= 86400
    served.publish(sequence=2, target=TARGET)
    assert served.reason("a") == "Offered"
    assert served.state("a") is AttemptState.OFFERED
    assert served.record("a").contact_due <= now + 60

    now += 2 * 86400 + 1
    assert served.reason("a") == "Offered"
    served.get("/version?device=a")
    now -= 3600
    assert served.reason("a") == "Offered"
    now += 3602
    assert served.reason("a") == "Offered"
    assert served.get("/firmware?device=a").body == CONTENT
