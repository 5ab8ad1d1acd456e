"""When devices are due: what time alone changes is noticed without looking at all of them."""

import heapq
import math
from collections.abc import Iterator

from otaflux_server.spaces import Entry

_TICKS = 4
"""Per second: how exactly changes by time alone are noticed."""
_SURPLUS_TICKS = 1024
NEVER = float("inf")


class Calendar:
    """Which devices are due when: each at most once, so that it is as large as the fleet."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[Entry, None]] = {}
        self._ticks: list[int] = []

    def enter(self, entry: Entry, due: float) -> None:
        """The entry is due then, and at no other time."""
        tick = None if due == NEVER else math.ceil(due * _TICKS)
        if tick == entry.tick:
            return
        if entry.tick is not None:
            entries = self._entries[entry.tick]
            del entries[entry]
            if not entries:
                del self._entries[entry.tick]
        entry.tick = tick
        if tick is None:
            return
        if tick not in self._entries:
            self._entries[tick] = {}
            heapq.heappush(self._ticks, tick)
            if len(self._ticks) > 2 * len(self._entries) + _SURPLUS_TICKS:
                self._ticks = sorted(self._entries)
        self._entries[tick][entry] = None

    def due(self, now: float) -> Iterator[Entry]:
        """Takes out, one by one, what is due."""
        while self._ticks and self._ticks[0] <= now * _TICKS:
            entries = self._entries.get(self._ticks[0])
            if not entries:
                self._entries.pop(heapq.heappop(self._ticks), None)
                continue
            entry, _ = entries.popitem()
            entry.tick = None
            yield entry

    def seconds(self, now: float) -> float:
        """Until the next one is due."""
        return max(0.001, self._ticks[0] / _TICKS - now) if self._ticks else NEVER
