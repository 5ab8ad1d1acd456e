"""kill -9 of a writing server, and a crash of PostgreSQL: no claim is lost, little else is."""

import asyncio
import contextlib
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from otaflux_server.evidence.databases import migrate
from otaflux_server.evidence.records import RunKey
from otaflux_server.evidence.stores import Store
from tests.fixtures.databases import Postgres

ROOT = Path(__file__).parents[2]
CLAIMED = RunKey("default", "claimed", 1)
RECORDED = RunKey("default", "recorded", 1)

_WRITER = """
import asyncio, itertools, sys
from otaflux_policy.facts import Facts
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import Offer
from otaflux_server.evidence.recording import Recorder
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt, judge

async def main() -> None:
    turn = sys.argv[2]
    async with Store(sys.argv[1]) as store, Recorder(store, interval=0.05) as recorder:
        for n in itertools.count():
            recorder.record(attempt(f"{turn}-{n:06}", rollout="recorded"), Facts(last_poll=at(n)))
            offer = Offer(attempt(f"{turn}-{n:06}", rollout="claimed"), "canary", at(n))
            try:
                await store.claim(offer, 1_000_000, judge)
            except StoreUnavailable:
                return
            print(n, recorder.counters.written, flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def writer(url: str, turn: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, url, str(turn), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: asyncio.subprocess.Process, *, enough: int | None) -> tuple[int, int]:
    """The last claim that the writer was granted, and how many facts it had written by then.

    Reads until `enough` claims were granted and some facts written; None: until the end.
    """
    assert process.stdout is not None
    last, written = -1, 0
    while line := await process.stdout.readline():
        if not (found := re.fullmatch(rb"(\d+) (\d+)\n", line)):
            continue  # cut short, or of the log
        last, written = int(found[1]), int(found[2])
        if enough is not None and last >= enough and written:
            break
    return last, written


async def check(url: str, turn: int, last: int, written: int) -> None:
    """No claim that was answered is missing, and of the facts only the newest may be."""
    async with Store(url) as store:
        claimed = {item.key.device async for item in store.attempts(CLAIMED)}
        recorded = {item.key.device async for item in store.attempts(RECORDED)}
        changes = await store.changed(None, 1_000_000)
    assert {f"device-{turn}-{n:06}" for n in range(last + 1)} <= claimed
    of_turn = sorted(device for device in recorded if device.startswith(f"device-{turn}-"))
    # Written in batches, in the order of recording: what is there has no gap.
    assert of_turn == [f"device-{turn}-{n:06}" for n in range(len(of_turn))]
    assert len(of_turn) >= written > 0
    assert {item.key.device for item in changes.attempts} == claimed | recorded


async def test_a_server_is_killed_while_it_writes(database: str) -> None:
    for turn, enough in enumerate((150, 20, 75)):
        async with writer(database, turn) as process:
            before = await told(process, enough=enough)
            process.send_signal(signal.SIGKILL)
            last, written = max(before, await told(process, enough=None))
        if database.startswith("sqlite"):
            file = database.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        await check(database, turn, last, written)


async def test_postgresql_crashes_while_a_server_writes(own_postgres: Postgres) -> None:
    url = own_postgres.new_database()
    await migrate(url)
    async with writer(url) as process:
        before = await told(process, enough=100)
        own_postgres.stop(how=signal.SIGQUIT)
        last, written = max(before, await told(process, enough=None))
    own_postgres.start()
    await check(url, 0, last, written)
