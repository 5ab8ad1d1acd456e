"""Maintenance windows, over both changes of the clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otaflux_policy.windows import (
    Window,
    after_open_time,
    is_open,
    next_change,
    open_time,
    opens_at,
)
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


WORKDAYS = Window(schedule="30 22 * * 1-5", duration=2 * 3600, time_zone="Europe/Berlin")
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-01-10T00:00:00+01:00", "2026-01-11T00:00:00+01:00", 4),
        ("2026-01-10T03:00:00+01:00", "2026-01-10T05:00:00+01:00", 2),
        ("2026-01-10T03:00:00+01:00", "2026-01-11T03:00:00+01:00", 4),
        ("2026-01-10T12:00:00+01:00", "2026-01-10T18:00:00+01:00", 0),
        ("2026-01-10T12:00:00+01:00", "2026-01-10T11:00:00+01:00", 0),
        # over both changes of the clock four hours a night are four hours a night
        ("2026-03-28T12:00:00+01:00", "2026-03-29T12:00:00+02:00", 4),
        ("2026-03-28T12:00:00+01:00", "2026-03-29T04:00:00+02:00", 1),
        ("2026-10-24T12:00:00+02:00", "2026-10-25T12:00:00+01:00", 4),
        ("2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+01:00", 1.5),
        ("2026-01-01T12:00:00+01:00", "2027-01-01T12:00:00+01:00", 365 * 4),
    ],
)
def test_open_time_is_told_over_both_changes_of_the_clock(
    start: str, end: str, hours: float
) -> None:
    assert open_time((BERLIN,), at(start), at(end)) == hours * HOUR


def test_windows_that_overlap_count_once() -> None:
    late = Window(schedule="0 4 * * *", duration=4 * 3600, time_zone="Europe/Berlin")
    hourly = Window(schedule="0 * * * *", duration=2 * 3600)
    start, end = at("2026-01-10T00:00:00+01:00"), at("2026-01-11T00:00:00+01:00")
    assert open_time((BERLIN, late), start, end) == 6 * HOUR
    assert open_time((hourly,), start, end) == 24 * HOUR
    assert open_time((late, hourly, BERLIN), start, end) == 24 * HOUR


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0, "2026-03-28T12:00:00+01:00"),
        (1, "2026-03-29T04:00:00+02:00"),
        (4, "2026-03-29T07:00:00+02:00"),
        (5, "2026-03-30T03:00:00+02:00"),
    ],
)
def test_open_time_can_be_looked_up_backwards(hours: int, expected: str) -> None:
    start = at("2026-03-28T12:00:00+01:00")
    assert after_open_time((BERLIN,), start, hours * HOUR) == at(expected)


def test_without_windows_time_is_time() -> None:
    start, end = at("2026-03-28T12:00:00+01:00"), at("2026-03-30T12:00:00+02:00")
    assert open_time((), start, end) == end - start
    assert after_open_time((), start, end - start) == end
    assert (opens_at((), start), next_change((), start)) == (None, None)


def test_open_time_is_measured_in_bounded_steps() -> None:
    """A window of a minute every two minutes, over years: from some day on all time counts."""
    dense = Window(schedule="*/2 * * * *", duration=60)
    start = at("2026-01-01T00:00:00+00:00")
    assert after_open_time((dense,), start, 30 * 24 * HOUR) == start + 60 * 24 * HOUR - HOUR / 60
    far = after_open_time((dense,), start, 400 * 24 * HOUR)
    assert far is not None
    assert start + 400 * 24 * HOUR < far < start + 500 * 24 * HOUR


def test_a_schedule_that_is_over_never_comes_again() -> None:
    rare = Window(schedule="0 0 29 2 *", duration=3600)
    start = at("2026-03-01T00:00:00+00:00")
    assert after_open_time((rare,), start, HOUR) == at("2028-02-29T01:00:00+00:00")


def test_the_next_opening_is_that_of_the_first_window() -> None:
    now = at("2026-01-10T12:00:00+01:00")  # a Saturday
    assert opens_at((BERLIN, WORKDAYS), now) == at("2026-01-11T02:00:00+01:00")
    assert opens_at((WORKDAYS,), now) == at("2026-01-12T22:30:00+01:00")
    assert opens_at((WORKDAYS, BERLIN), at("2026-01-10T02:00:00+01:00")) is None
    assert next_change((WORKDAYS, BERLIN), now) == at("2026-01-11T02:00:00+01:00")
    assert next_change((BERLIN,), at("2026-01-10T02:00:00+01:00")) == at(
        "2026-01-10T06:00:00+01:00"
    )


some_windows = st.lists(strategies.windows, max_size=3).map(tuple)


@given(some_windows, strategies.times, st.integers(0, 10 * 86400))
@settings(deadline=None)
def test_open_time_is_what_is_open(windows: tuple[Window, ...], start: datetime, span: int) -> None:
    """As decisions see it: from each change to the next it is open as a whole, or not at all."""
    end = start + timedelta(seconds=span)
    expected, time = timedelta(0), start
    while time < end:
        change = min(next_change(windows, time) or end, end)
        expected += change - time if is_open(windows, time) else timedelta(0)
        time = change
    assert open_time(windows, start, end) == expected


@given(some_windows, strategies.times, st.integers(0, 5 * 86400))
@settings(deadline=None)
def test_it_is_undone(windows: tuple[Window, ...], start: datetime, span: int) -> None:
    wanted = timedelta(seconds=span)
    end = after_open_time(windows, start, wanted)
    assert end is not None
    assert open_time(windows, start, end) == wanted
    earlier = max(start, end - timedelta(seconds=1))
    assert span == 0 or open_time(windows, start, earlier) < wanted
