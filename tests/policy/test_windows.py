"""Maintenance windows, over both changes of the clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given

from otaflux_policy.windows import Window, is_open
from tests.policy import strategies

BERLIN = Window(schedule="0 2 * * *", duration=4 * 3600, time_zone="Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-01-10T01:59:59+01:00", False),
        ("2026-01-10T02:00:00+01:00", True),
        ("2026-01-10T05:59:59+01:00", True),
        ("2026-01-10T06:00:00+01:00", False),
        ("2026-07-10T02:00:00+02:00", True),
        # 29 March 2026: 02:00 is skipped, the window opens at 03:00 summer time
        ("2026-03-29T01:59:59+01:00", False),
        ("2026-03-29T03:00:00+02:00", True),
        ("2026-03-29T06:59:59+02:00", True),
        ("2026-03-29T07:00:00+02:00", False),
        # 25 October 2026: 02:00 comes twice, four hours are four hours
        ("2026-10-25T01:59:59+02:00", False),
        ("2026-10-25T02:30:00+02:00", True),
        ("2026-10-25T02:30:00+01:00", True),
    ],
)
def test_berlin_nights(now: str, expected: bool) -> None:
    assert BERLIN.is_open(at(now)) is expected
    assert is_open([BERLIN], at(now)) is expected


def test_no_window_is_always_open() -> None:
    assert is_open([], at("2026-01-10T12:00:00+00:00"))


@given(strategies.windows, strategies.times)
def test_the_next_change_is_a_change_and_none_comes_before(window: Window, now: datetime) -> None:
    change = window.next_change(now)
    assert change > now
    just_before = change - timedelta(seconds=1)
    if just_before > now:
        assert window.is_open(just_before) == window.is_open(now)
