"""Long work on the event loop, cut so that polls are answered in between."""

import asyncio
import gc
import time

SLICE_SECONDS = 0.002
"""So long the event loop is kept at one time, give or take one step."""

_COLLECT_SECONDS = 0.01
_YOUNG_ROUNDS = 3


class Slices:
    """`if slices.over: await slices.rest()` after each step of the work."""

    def __init__(self, seconds: float = SLICE_SECONDS) -> None:
        self._seconds = seconds
        self._began = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether others should have their turn."""
        return time.perf_counter() - self._began >= self._seconds

    async def rest(self) -> None:
        """Lets everything else that is ready run first."""
        await asyncio.sleep(0)
        self._began = time.perf_counter()


async def collect_often() -> None:
    """Collects the garbage of the last moment, little by little, until cancelled.

    Python does so once there are 700 objects more than before. Where new objects take the place of
    old ones, as when all devices are counted anew, there never are, and it then walks through a
    hundred thousand at one time.
    """
    rounds = 0
    while True:
        await asyncio.sleep(_COLLECT_SECONDS)
        rounds += 1
        gc.collect(0 if rounds % _YOUNG_ROUNDS else 1)


def seldom_collect() -> None:
    """For a process that holds a large fleet: call before that is loaded, and once it is.

    A full collection of garbage walks through all objects that were made since, and keeps the
    event loop for as long; a third of a second for 100 000 devices. What is there now is left out
    from here on, and the rest is walked through very seldom: nearly nothing of ours is cyclic.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 1000)
