"""Maintenance windows: a cron schedule opens one, a duration closes it, in a time zone."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from otaflux_policy.models import ContractModel

OPENINGS = 50_000
"""Openings that are looked at to measure open time; from there on all time counts as open."""

_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_NOTHING = timedelta(0)


class Window(ContractModel):
    """Opens at each time of `schedule` (five cron fields) in `time_zone`, for `duration` seconds.

    The schedule follows Debian cron over a change of the clock: a time that is skipped runs at
    once after the gap, one that comes twice runs once.
    """

    schedule: str
    duration: Annotated[int, Field(ge=1, le=366 * 86400)]
    time_zone: str = "UTC"

    @model_validator(mode="after")
    def _usable(self) -> Self:
        """What can be read here can be judged at any time: decisions never raise."""
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("timeZone is not the name of a time zone") from None
        try:
            next(CronSim(self.schedule, self._local(_SOME_DAY)))
        except (CronSimError, StopIteration):
            raise ValueError("schedule is not five cron fields that ever come") from None
        return self

    def is_open(self, now: datetime) -> bool:
        """Whether an opening lies at most `duration` before `now` (an aware time)."""
        opened = next(CronSim(self.schedule, self._local(now) + timedelta(minutes=1), reverse=True))
        return opened.astimezone(UTC) <= now < self._closes(opened)

    def next_change(self, now: datetime) -> datetime:
        """The first instant after `now` at which this window opens or closes, in UTC."""
        opens = next(CronSim(self.schedule, self._local(now))).astimezone(UTC)
        if self.is_open(now):
            opened = next(
                CronSim(self.schedule, self._local(now) + timedelta(minutes=1), reverse=True)
            )
            return min(opens, self._closes(opened))
        return opens

    def spells(self, start: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The spells for which it is open that end after `start`, in UTC, by their beginning.

        They overlap where it opens again before it closed.
        """
        opened = next(
            CronSim(self.schedule, self._local(start) + timedelta(minutes=1), reverse=True)
        )
        if opened.astimezone(UTC) <= start < self._closes(opened):
            yield opened.astimezone(UTC), self._closes(opened)
        for opened in CronSim(self.schedule, self._local(start)):
            if opened.astimezone(UTC) > start:
                yield opened.astimezone(UTC), self._closes(opened)

    def _local(self, now: datetime) -> datetime:
        return now.astimezone(ZoneInfo(self.time_zone)).replace(second=0, microsecond=0)

    def _closes(self, opened: datetime) -> datetime:
        return opened.astimezone(UTC) + timedelta(seconds=self.duration)


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether a rollout with these windows may start devices now; none at all: always."""
    windows = tuple(windows)
    return not windows or any(window.is_open(now) for window in windows)


def opens_at(windows: Iterable[Window], now: datetime) -> datetime | None:
    """When the first of them opens next; None where one is open, or there is none at all."""
    windows = tuple(windows)
    if is_open(windows, now):
        return None
    return min(window.next_change(now) for window in windows)


def next_change(windows: Iterable[Window], now: datetime) -> datetime | None:
    """The first instant after `now` at which one opens or closes; None where there is none."""
    return min((window.next_change(now) for window in windows), default=None)


def open_time(windows: tuple[Window, ...], start: datetime, end: datetime) -> timedelta:
    """For how much of the time from `start` to `end` a window was open; none at all: all of it."""
    total = _NOTHING
    for opened, closed in _spells(windows, start):
        if opened >= end:
            break
        total += max(_NOTHING, min(closed, end) - opened)
    return total


@lru_cache(maxsize=4096)
def after_open_time(
    windows: tuple[Window, ...], start: datetime, span: timedelta
) -> datetime | None:
    """The first instant by which so much open time passed since `start`: undoes `open_time`.

    None: it never comes.
    """
    left = span
    if left <= _NOTHING:
        return start
    for opened, closed in _spells(windows, start):
        if closed - opened >= left:
            return opened + left
        left -= closed - opened
    return None


def _spells(windows: tuple[Window, ...], start: datetime) -> Iterator[tuple[datetime, datetime]]:
    """When they are open from `start` on, without overlaps."""
    until = start
    openings = merge(*(window.spells(start) for window in windows))
    for opened, closed in islice(openings, OPENINGS if windows else 0):
        if closed > until:
            yield max(opened, until), closed
            until = closed
    if not windows or next(openings, None) is not None:
        yield until, datetime.max.replace(tzinfo=UTC)
