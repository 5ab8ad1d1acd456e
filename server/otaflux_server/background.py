"""Tasks that run beside the answers to devices, for as long as the server does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0


def kept(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """A task that runs it, and again a moment after a fault of ours ended it."""

    async def running() -> None:
        while True:
            try:
                return await run()
            except Exception:
                log.exception("background work failed", name=name)
            await asyncio.sleep(RESTART_SECONDS)

    return asyncio.create_task(running(), name=name)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels it, and returns once it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
