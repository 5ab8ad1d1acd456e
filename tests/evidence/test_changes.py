"""Replicas read what is new, in pages, and miss nothing that is committed."""

import asyncio
from functools import reduce

from sqlalchemy import text

from otaflux_policy.facts import Download, Facts
from otaflux_server.evidence.databases import migrate, open_engine, transaction
from otaflux_server.evidence.merging import merging
from otaflux_server.evidence.records import (
    AttemptKey,
    Batch,
    Changes,
    DeviceFacts,
    DeviceKey,
    Mark,
    Offer,
    Pin,
)
from otaflux_server.evidence.rows import attempt_row
from otaflux_server.evidence.stores import Store
from otaflux_server.evidence.ticks import this_tick
from tests.evidence.attempts import at, attempt, judge


def seen(n: int) -> DeviceFacts:
    return DeviceFacts(first_seen=at(n), last_seen=at(n))


def device(n: int) -> DeviceKey:
    return DeviceKey("default", f"device-{n:03}")


async def read(
    store: Store, mark: Mark | None, limit: int = 7
) -> tuple[dict[AttemptKey, Facts], dict[DeviceKey, DeviceFacts], Mark]:
    """All pages, joined."""
    attempts: dict[AttemptKey, Facts] = {}
    devices: dict[DeviceKey, DeviceFacts] = {}
    while True:
        page = await store.changed(mark, limit)
        assert len(page.attempts) <= limit
        assert len(page.devices) <= limit
        for key, facts in page.attempts:
            attempts[key] = facts if key not in attempts else attempts[key].join(facts)
        devices |= dict(page.devices)
        mark = page.mark
        if page.complete:
            return attempts, devices, mark


async def test_everything_and_then_only_what_is_new(database: str) -> None:
    attempts = {
        attempt(n): Facts(downloads=(Download(at(n), at(n + 1)), Download(at(n + 2), at(n + 3))))
        for n in range(25)
    }
    devices = {device(n): seen(n) for n in range(30)}
    async with Store(database) as store, Store(database) as other:
        everything, all_devices, mark = await read(store, None)
        assert (everything, all_devices) == ({}, {})
        for key, facts in attempts.items():
            await other.merge(Batch({key: facts}))
        await other.merge(Batch(devices=devices))
        assert (await read(store, mark))[:2] == (attempts, devices)
        everything, all_devices, mark = await read(store, None)
        assert (everything, all_devices) == (attempts, devices)
        assert (await read(store, mark))[:2] == ({}, {})
        await other.merge(Batch({attempt(3): Facts(first_byte=at(9))}, {device(2): seen(99)}))
        pin = Pin(at(5), "sha256:1", at(605))
        await other.claim(Offer(attempt("002"), "canary", at(5), pin), 9, judge)
        found, heard, mark = await read(store, mark)
        assert found == {
            attempt(3): attempts[attempt(3)].join(Facts(first_byte=at(9))),
            attempt("002"): (await other.device_attempts(device(2)))[0].facts,
        }
        assert heard[device(2)] == reduce(DeviceFacts.join, (seen(2), seen(99), seen(5))).join(
            DeviceFacts(first_seen=at(5), last_seen=at(5), pin=pin)
        )
        assert (await read(store, mark))[:2] == ({}, {})


async def test_what_comes_in_between_two_pages_is_read_too(database: str) -> None:
    facts = {attempt(f"{n:03}"): Facts(last_poll=at(n)) for n in range(20)}
    async with Store(database) as store:
        await store.merge(Batch(facts))
        for mark in (None, (await store.changed(None, 1000)).mark):
            if mark is not None:
                await store.merge(Batch(facts))
            pages: list[Changes] = [await store.changed(mark, 5)]
            while not pages[-1].complete:
                n = len(pages)
                # One that was read already, one that was not, a new one.
                later = {
                    attempt("000"): Facts(first_byte=at(n)),
                    attempt("019"): Facts(first_byte=at(n)),
                    attempt(f"new-{n}"): Facts(first_byte=at(n)),
                }
                if n < 4:
                    await store.merge(Batch(later))
                pages.append(await store.changed(pages[-1].mark, 5))
            known = {key: facts for page in pages for key, facts in page.attempts}
            known |= (await read(store, pages[-1].mark))[0]
            assert known == (await read(store, None))[0]


async def test_a_transaction_that_ends_after_later_ones(postgres_database: str) -> None:
    """It was numbered before the mark was made, and committed after it."""
    engine = open_engine(postgres_database)
    try:
        async with Store(postgres_database) as store:
            async with transaction(engine, writes=True) as connection:
                tick = await this_tick(connection)
                late = attempt_row(attempt("late"), Facts(last_poll=at(1)), tick)
                await merging("postgresql").attempts.run(connection, [late])
                await store.merge(Batch({attempt("early"): Facts(last_poll=at(2))}))
                found, _, mark = await read(store, None)
                assert set(found) == {attempt("early")}
                found, _, mark = await read(store, mark)
                assert found == {}
            found, _, mark = await read(store, mark)
            assert found == {attempt("late"): Facts(last_poll=at(1))}
            assert (await read(store, mark))[0] == {}
    finally:
        await engine.dispose()


async def test_readers_keep_up_with_writers(database: str) -> None:
    async with Store(database) as store, Store(database) as one, Store(database) as other:
        done = asyncio.Event()

        async def write(writer: Store, first: int) -> None:
            for n in range(30):
                some = {attempt(first + n + k): Facts(last_poll=at(n + k)) for k in range(20)}
                await writer.merge(Batch(some, {device(first + n): seen(n)}))

        async def follow() -> tuple[dict[AttemptKey, Facts], dict[DeviceKey, DeviceFacts]]:
            attempts: dict[AttemptKey, Facts] = {}
            devices: dict[DeviceKey, DeviceFacts] = {}
            mark: Mark | None = None
            while True:
                last = done.is_set()
                new, heard, mark = await read(store, mark, 10)
                attempts |= new
                devices |= heard
                if last:
                    return attempts, devices

        following = asyncio.create_task(follow())
        await asyncio.gather(write(one, 0), write(other, 15))
        done.set()
        assert await following == (await read(store, None, 1000))[:2]


async def test_a_database_of_another_cluster_is_numbered_anew_and_restored(
    postgres_database: str,
) -> None:
    engine = open_engine(postgres_database)
    try:
        async with Store(postgres_database) as store:
            await store.merge(Batch({attempt(1): Facts(last_poll=at(1))}))
            await migrate(postgres_database)
            assert await store.restored_at() is None
            async with transaction(engine, writes=True) as connection:
                await connection.execute(text("UPDATE attempts SET changed = changed + 1000000"))
            await migrate(postgres_database)
            assert await store.restored_at() is not None
            found, _, mark = await read(store, None)
            assert set(found) == {attempt(1)}
            assert (await read(store, mark))[0] == {}
    finally:
        await engine.dispose()


async def test_what_is_new_is_found_by_an_index(sqlite_database: str) -> None:
    async with Store(sqlite_database) as store:
        await store.merge(Batch({attempt(1): Facts()}, {device(1): seen(1)}))
    engine = open_engine(sqlite_database)
    try:
        async with transaction(engine, writes=False) as connection:
            for table in ("attempts", "devices"):
                plan = await connection.execute(
                    text(
                        f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE changed >= 5 "
                        "ORDER BY changed, namespace LIMIT 5"
                    )
                )
                assert any(f"{table}_changed" in str(row) for row in plan)
    finally:
        await engine.dispose()
