"""Log lines that strangers cause."""

import asyncio

from otaflux_server.lines import Lines
from tests.server.fleets import until


async def test_the_first_is_told_at_once_and_the_others_are_counted() -> None:
    told: list[tuple[str, str, int]] = []
    more = asyncio.Event()

    def write(reason: str, peer: str, count: int) -> None:
        told.append((reason, peer, count))
        if count > 1:
            more.set()

    lines: Lines[str] = Lines(write)
    for number in range(100):
        lines.note("TooMany", f"192.0.2.{number}")
    lines.note("Other", "192.0.2.200")
    assert told == [("TooMany", "192.0.2.0", 1), ("Other", "192.0.2.200", 1)]
    async with asyncio.timeout(30):
        await more.wait()
    assert told[2:] == [("TooMany", "192.0.2.99", 99)]


async def test_what_came_once_is_told_once_and_forgotten() -> None:
    told: list[int] = []
    lines: Lines[str] = Lines(lambda _reason, _peer, count: told.append(count))
    lines.note("TooMany", "")
    await until(lambda: not lines._held)
    assert told == [1]
