"""Windows in the engine: what is said of them, and windows that are none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.operator.worlds import AT_ONCE, World

NIGHTS = {"schedule": "0 2 * * *", "duration": "4h", "timeZone": "Europe/Berlin"}
NONE = {"members": 4, "active": 4, "pending": 4}


def with_windows(*windows: dict[str, Any], **spec: Any) -> World:
    rings = [{"name": "canary", "percent": 10}, {"name": "fleet", **AT_ONCE}]
    world = World(rings=rings, windows=list(windows), **spec)
    world.counts = {"canary": NONE}
    world.release("1.0.0")
    return world


def test_outside_of_windows_it_says_when_the_next_one_opens() -> None:
    world = with_windows(NIGHTS)
    assert world.reason("Ready") == "True/OutsideWindow"
    opens = "Outside of its windows: no device starts before 2026-03-02 01:00 UTC."
    assert opens in world.status.message
    assert world.reason("Stalled") == "False/NotStalled"
    (window,) = world.policy.windows
    assert (window.schedule, window.duration) == ("0 2 * * *", 4 * 3600)
    world.now = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
    world.serve()
    world.look()
    assert world.reason("Ready") == "True/Progressing"
    assert "Outside" not in world.status.message


def test_it_wakes_when_a_window_opens_and_closes() -> None:
    world = with_windows(NIGHTS)
    for hour in (1, 5):
        world.now = datetime(2026, 3, 2, hour, 0, tzinfo=UTC) - timedelta(seconds=20)
        world.serve()
        assert world.look().wake_at == world.now + timedelta(seconds=20)


def test_rings_go_on_outside_of_windows() -> None:
    """Windows are about devices that start: what was updated counts at any time."""
    world = with_windows(NIGHTS)
    world.counts = {"canary": {"members": 4, "active": 4, "succeeded": 4, "updated": 4}}
    world.settle()
    assert world.status.phase == "Completed"
    assert "Outside" not in world.status.message


def test_the_earliest_of_several_windows_is_told() -> None:
    noon = {"schedule": "0 18 * * *", "duration": "1h"}
    world = with_windows(NIGHTS, noon)
    assert "before 2026-03-01 18:00 UTC" in world.status.message


@pytest.mark.parametrize(
    "nonsense",
    [
        {"schedule": "0 2 30 2 *"},
        {"schedule": "0 2 * * 5-1"},
        {"timeZone": "Europe/Nowhere"},
        {"timeZone": "Europe"},
        {"duration": "99999h"},
    ],
)
def test_windows_that_are_none_stall_and_what_is_released_goes_on(
    nonsense: dict[str, str],
) -> None:
    world = with_windows(NIGHTS)
    published = world.policy
    world.spec(windows=[NIGHTS, NIGHTS | nonsense])
    world.tag("1.1.0")
    world.settle()
    assert world.reason("Stalled") == "True/InvalidSpec"
    assert "spec.windows[1]" in world.status.message
    assert world.status.phase == "Stalled"
    assert world.policy.windows == published.windows
    assert world.policy.target == published.target
    assert world.policy.candidate is None
    world.spec(windows=[NIGHTS])
    world.settle()
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.status.run == 2


def test_windows_that_are_none_keep_the_first_release_back() -> None:
    world = with_windows(NIGHTS | {"timeZone": "Europe/Nowhere"})
    assert world.policy.target is None
    assert world.reason("Stalled") == "True/InvalidSpec"
    world.spec(state="Paused")
    world.look()
    assert world.policy.state == "Paused"
