"""Tasks that run beside the answers to devices, for as long as the server does."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0
_LONGEST_PAUSE = 60.0


def kept(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """A task that runs it, and again after a fault of ours ended it.

    The fault is logged. Of what fails again and again the pause doubles, up to a minute.
    """

    async def running() -> None:
        loop, pause = asyncio.get_running_loop(), RESTART_SECONDS
        while True:
            began = loop.time()
            try:
                return await run()
            except Exception:
                log.exception("background work failed", name=name)
            if loop.time() - began > _LONGEST_PAUSE:
                pause = RESTART_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    return asyncio.create_task(running(), name=name)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels it, and returns once it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Returns once the event is set, or the time is over (None: it never is)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
