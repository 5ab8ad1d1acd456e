"""Long work on the event loop, cut so that polls are answered in between."""

import asyncio
import gc
import time

SLICE_SECONDS = 0.002
"""So long the event loop is kept at one time, give or take one step."""


class Slices:
    """`if slices.over: await slices.rest()` after each step of the work."""

    def __init__(self, seconds: float = SLICE_SECONDS) -> None:
        self.longest = 0.0
        """Seconds; the longest that the loop was kept so far."""
        self._seconds = seconds
        self._began = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether others should have their turn."""
        return time.perf_counter() - self._began >= self._seconds

    async def rest(self) -> None:
        """Lets everything else that is ready run first."""
        self.longest = max(self.longest, time.perf_counter() - self._began)
        await asyncio.sleep(0)
        self._began = time.perf_counter()


def seldom_collect() -> None:
    """For a process that holds a large fleet: call once, when that is loaded.

    A full collection of garbage walks through all objects that were made since, and keeps the
    event loop for as long; a third of a second for 100 000 devices. What is there now is left out
    from here on, and the rest is walked through very seldom: nearly nothing of ours is cyclic.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 1000)
