"""Waiting for outcomes of what runs beside a test."""

import asyncio
from collections.abc import Awaitable, Callable

CEILING = 30.0


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition of what runs beside the test."""
    async with asyncio.timeout(CEILING):
        while True:
            if await reached():
                return
            await asyncio.sleep(0.02)
