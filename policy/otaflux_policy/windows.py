"""Maintenance windows: a cron schedule opens one, a duration closes it, in a time zone."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from otaflux_policy.models import ContractModel

_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


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

    def _local(self, now: datetime) -> datetime:
        return now.astimezone(ZoneInfo(self.time_zone)).replace(second=0, microsecond=0)

    def _closes(self, opened: datetime) -> datetime:
        return opened.astimezone(UTC) + timedelta(seconds=self.duration)


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether a rollout with these windows may start devices now; none at all: always."""
    windows = tuple(windows)
    return not windows or any(window.is_open(now) for window in windows)
