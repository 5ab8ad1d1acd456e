"""Recording never waits, never raises, and loses nothing that there was room for."""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from otaflux_policy.facts import Facts
from otaflux_server.evidence.databases import FactsRefused, StoreUnavailable, migrate
from otaflux_server.evidence.recording import Recorder
from otaflux_server.evidence.records import (
    Batch,
    DeviceFacts,
    DeviceKey,
    Pin,
    RunKey,
    Running,
    Said,
)
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt
from tests.fixtures.databases import Postgres
from tests.server.fleets import until

ROOT = Path(__file__).parents[2]
RUN = RunKey("default", "thermostat", 1)
DEVICE = DeviceKey("default", "device-1")


class Batches:
    """A store that keeps what it is given, while it can be used."""

    def __init__(self) -> None:
        self.merged: list[Batch] = []
        self.usable = True
        self.refused: set[str] = set()
        self.during: Callable[[], None] = lambda: None

    async def merge(self, batch: Batch) -> None:
        self.during()
        if not self.usable:
            raise StoreUnavailable("stopped")
        if self.refused & {key.device for key in batch.attempts}:
            raise FactsRefused("never")
        self.merged.append(batch)


def seen(seconds: float, version: str = "1.0.0", digest: str | None = None) -> DeviceFacts:
    return DeviceFacts(
        first_seen=at(seconds),
        last_seen=at(seconds),
        first_poll=at(seconds),
        last_poll=at(seconds),
        said=Said(at(seconds), "", version),
        running=Running(at(seconds), digest) if digest else None,
    )


async def test_facts_are_joined_and_written_behind(database: str) -> None:
    async with Store(database) as store:
        async with Recorder(store, interval=0.05) as recorder:
            recorder.record(attempt(1), Facts(last_poll=at(1)))
            recorder.record(attempt(1), Facts(last_poll=at(3)))
            recorder.record(attempt(1), Facts(last_poll=at(2)))
            assert recorder.waiting == 1
            await until(lambda: recorder.counters.written == 1)
            recorder.record(attempt(2), Facts(last_poll=at(4)))
        stored = {item.key: item.facts.last_poll async for item in store.attempts(RUN)}
    assert stored == {attempt(1): at(3), attempt(2): at(4)}


async def test_a_full_batch_does_not_wait_for_the_interval() -> None:
    store = Batches()
    async with Recorder(store, interval=3600, rows=10) as recorder:
        for n in range(25):
            recorder.record(attempt(n), Facts(last_poll=at(n)))
        await until(lambda: recorder.waiting == 0)
    assert [len(batch) for batch in store.merged] == [10, 10, 5]


async def test_beyond_its_capacity_new_facts_are_dropped_and_counted() -> None:
    store = Batches()
    store.usable = False
    recorder = Recorder(store, capacity=10)
    for n in range(15):
        recorder.record(attempt(n), Facts(last_poll=at(n)))
        recorder.contact(DeviceKey("default", f"device-{n}"), seen(n))
    recorder.record(attempt(3), Facts(first_byte=at(0)))
    await recorder.flush()
    assert (recorder.waiting, recorder.counters.dropped, recorder.failure) == (20, 10, "stopped")
    store.usable = True
    await recorder.flush()
    assert (recorder.waiting, recorder.failure) == (0, None)
    (batch,) = store.merged
    assert batch.attempts[attempt(3)] == Facts(last_poll=at(3), first_byte=at(0))


async def test_what_comes_in_during_a_write_is_kept_whether_it_fails_or_not() -> None:
    store = Batches()
    recorder = Recorder(store)
    store.during = lambda: recorder.record(attempt(1), Facts(first_byte=at(5)))
    for usable in (False, True):
        store.usable = usable
        recorder.record(attempt(1), Facts(last_poll=at(1)))
        await recorder.flush()
        assert recorder.waiting == 1
    store.during = lambda: None
    await recorder.flush()
    assert recorder.waiting == 0
    assert store.merged[-1].attempts == {attempt(1): Facts(last_poll=at(1), first_byte=at(5))}


async def test_facts_that_are_refused_hold_up_no_others() -> None:
    store = Batches()
    store.refused = {"device-3"}
    recorder = Recorder(store)
    for n in range(9):
        recorder.record(attempt(n), Facts(last_poll=at(n)))
    recorder.contact(DEVICE, seen(1))
    await recorder.flush()
    assert recorder.waiting == 0
    assert (recorder.counters.written, recorder.counters.refused) == (9, 1)


async def test_facts_outlast_a_fault_of_ours() -> None:
    store = Batches()
    store.during = lambda: [][0]
    async with Recorder(store, interval=0.01) as recorder:
        recorder.record(attempt(1), Facts(last_poll=at(1)))
        await until(lambda: recorder.counters.failures > 1)
        assert recorder.failure == "facts could not be written (IndexError)"
        store.during = lambda: None
        await until(lambda: recorder.waiting == 0)
    assert len(store.merged) == 1


async def test_closing_in_the_middle_of_a_write_loses_nothing(database: str) -> None:
    class Announced:
        def __init__(self) -> None:
            self.begun = asyncio.Event()

        async def merge(self, batch: Batch) -> None:
            self.begun.set()
            await store.merge(batch)

    async with Store(database) as store:
        for turn in range(10):
            announced = Announced()
            async with Recorder(announced, interval=0.01) as recorder:
                for n in range(200):
                    recorder.record(attempt(f"{turn}-{n}"), Facts(last_poll=at(1)))
                await announced.begun.wait()
        assert len([item async for item in store.attempts(RUN)]) == 2000


async def test_a_contact_with_no_news_is_written_once_a_minute() -> None:
    store, now = Batches(), 1000.0
    async with Recorder(store, interval=0.01, clock=lambda: now) as recorder:
        recorder.contact(DEVICE, seen(0))
        await until(lambda: len(store.merged) == 1)
        for second in range(1, 60):
            recorder.contact(DEVICE, seen(second))
        assert (recorder.waiting, len(store.merged)) == (1, 1)
        now += 60
        await until(lambda: len(store.merged) == 2)
        assert store.merged[1].devices[DEVICE].last_poll == at(59)
        recorder.contact(DEVICE, seen(61, "1.1.0"))
        await until(lambda: len(store.merged) == 3)
        recorder.contact(DEVICE, seen(62, "1.1.0", "sha256:1"))
        await until(lambda: len(store.merged) == 4)
        recorder.contact(DEVICE, seen(63, "1.1.0", "sha256:1"))
        assert recorder.waiting == 1
    assert store.merged[-1].devices[DEVICE].last_seen == at(63)


async def test_a_pin_is_written_at_once_when_it_is_new_or_was_over() -> None:
    store, now = Batches(), 1000.0

    def pinned(seconds: float, digest: str = "sha256:1") -> DeviceFacts:
        return replace(seen(seconds), pin=Pin(at(seconds), digest, at(seconds + 600)))

    async with Recorder(store, interval=0.01, clock=lambda: now) as recorder:
        for n, (facts, written) in enumerate(
            (
                (seen(0), True),
                (pinned(1), True),
                (pinned(30), False),
                (pinned(31, "sha256:2"), True),
                (pinned(630, "sha256:2"), False),
                (pinned(631, "sha256:2"), True),
                (pinned(632, ""), True),
            )
        ):
            recorder.contact(DEVICE, facts)
            if written:
                await until(lambda: recorder.waiting == 0)
            assert (n, recorder.waiting) == (n, 0 if written else 1)


async def test_a_contact_that_waits_outlasts_what_is_remembered_of_its_device() -> None:
    store, now = Batches(), 1000.0

    def written() -> dict[DeviceKey, DeviceFacts]:
        return {key: facts for batch in store.merged for key, facts in batch.devices.items()}

    async with Recorder(store, interval=0.01, capacity=2, clock=lambda: now) as recorder:
        recorder.contact(DEVICE, seen(0))
        await until(lambda: recorder.waiting == 0)
        recorder.contact(DEVICE, seen(1))
        assert recorder.waiting == 1
        recorder.contact(DeviceKey("default", "device-2"), seen(2))
        await until(lambda: len(written()) == 2)
        recorder.contact(DeviceKey("default", "device-3"), seen(2))
        await until(lambda: written()[DEVICE].last_seen == at(1))
    assert recorder.counters.dropped == 0


async def test_postgresql_stopped_and_started(own_postgres: Postgres) -> None:
    url = own_postgres.new_database()
    await migrate(url)
    async with Store(url) as store, Recorder(store, interval=0.05) as recorder:
        recorder.record(attempt(1), Facts(last_poll=at(1)))
        await until(lambda: recorder.counters.written == 1)
        own_postgres.stop()
        recorder.record(attempt(1), Facts(last_poll=at(2)))
        recorder.record(attempt(2), Facts(last_poll=at(2)))
        await until(lambda: recorder.failure is not None)
        assert recorder.waiting == 2
        with pytest.raises(StoreUnavailable) as unavailable:
            await store.device(DEVICE)
        assert "otaflux@" not in str(unavailable.value)
        own_postgres.start()
        await until(lambda: recorder.waiting == 0)
        assert recorder.failure is None
        stored = [item.facts.last_poll async for item in store.attempts(RUN)]
    assert stored == [at(2), at(2)]


async def test_a_locked_sqlite_file(sqlite_database: str) -> None:
    locker = sqlite3.connect(Path(sqlite_database.removeprefix("sqlite:///")), isolation_level=None)
    try:
        locker.execute("BEGIN IMMEDIATE")
        async with (
            Store(sqlite_database, busy_seconds=0.1) as store,
            Recorder(store, interval=0.05) as recorder,
        ):
            recorder.record(attempt(1), Facts(last_poll=at(1)))
            await until(lambda: recorder.counters.failures > 0)
            assert recorder.waiting == 1
            locker.execute("ROLLBACK")
            await until(lambda: recorder.waiting == 0)
            assert [item.facts.last_poll async for item in store.attempts(RUN)] == [at(1)]
    finally:
        locker.close()


_ON_A_FULL_DISK = """
import asyncio, resource, sys
from otaflux_policy.facts import Facts
from otaflux_server.evidence.claims import Claim
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import Offer
from otaflux_server.evidence.recording import Recorder
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt, judge
from tests.server.fleets import until

async def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with (
        Store(sys.argv[1]) as store,
        Recorder(store, interval=0.05, capacity=3000) as recorder,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, hard))
        for n in range(3500):
            recorder.record(attempt(n), Facts(last_poll=at(1)))
        await until(lambda: recorder.counters.failures > 0)
        assert recorder.waiting > 0
        assert recorder.counters.dropped == 500
        why = recorder.failure
        assert why.endswith(("(SQLITE_FULL)", "(SQLITE_IOERR_WRITE)")), why
        offers = [Offer(attempt(f"new-{n}"), "canary", at(n)) for n in range(1000)]
        try:
            await store.claim_all(offers, 5000, judge)
        except StoreUnavailable:
            pass
        else:
            raise AssertionError("the disk was not full")
        assert [item async for item in store.devices()] == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await until(lambda: recorder.waiting == 0)
        assert recorder.failure is None
        assert (await store.claim(offers[0], 1, judge)).claim is Claim.GRANTED

asyncio.run(main())
"""


async def test_a_disk_that_takes_no_more_under_sqlite(sqlite_database: str) -> None:
    """A limit on the size of files stands for the disk: writing beyond fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ON_A_FULL_DISK, sqlite_database, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    with contextlib.closing(sqlite3.connect(sqlite_database.removeprefix("sqlite:///"))) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    async with Store(sqlite_database) as store:
        assert len([item async for item in store.attempts(RUN)]) == 3001


async def test_a_sqlite_file_that_cannot_be_opened_for_now(
    tmp_path: Path, sqlite_database: str
) -> None:
    file = Path(sqlite_database.removeprefix("sqlite:///"))
    away = tmp_path / "away"
    file.rename(away)
    file.mkdir()
    async with Store(sqlite_database) as store, Recorder(store, interval=0.05) as recorder:
        recorder.record(attempt(1), Facts(last_poll=at(1)))
        await until(lambda: recorder.counters.failures > 0)
        file.rmdir()
        away.rename(file)
        await until(lambda: recorder.waiting == 0)
        assert [item.facts.last_poll async for item in store.attempts(RUN)] == [at(1)]
