"""What is stored is read in pages, and removed in bounded steps."""

from datetime import timedelta

from otaflux_policy.counts import Trip
from otaflux_policy.facts import Download, Facts
from otaflux_server.evidence.databases import open_engine, transaction
from otaflux_server.evidence.merging import merging
from otaflux_server.evidence.records import Batch, DeviceFacts, DeviceKey, RunKey, StoredRun
from otaflux_server.evidence.rows import device_row
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt

RUN = RunKey("default", "thermostat", 1)


def downloaded(n: int) -> Facts:
    return Facts(downloads=(Download(at(n), at(n + 1)),), last_poll=at(n))


def seen(first: float, last: float) -> DeviceFacts:
    return DeviceFacts(
        first_seen=at(first), last_seen=at(last), first_poll=at(first), last_poll=at(last)
    )


async def test_a_run_is_read_in_pages(database: str) -> None:
    facts = {attempt(f"{n:03}"): downloaded(n) for n in range(25)}
    async with Store(database) as store:
        await store.merge(Batch({**facts, attempt(1, run=2): downloaded(1)}))
        for page in (1, 7, 25, 100):
            stored = [item async for item in store.attempts(RUN, page=page)]
            assert stored == list(facts.items())


async def test_devices_are_read_in_pages(database: str) -> None:
    facts = {DeviceKey("default", f"device-{n:03}"): seen(n, n + 1) for n in range(25)}
    async with Store(database) as store:
        await store.merge(Batch(devices=facts))
        for page in (7, 25, 100):
            assert [item async for item in store.devices(page=page)] == list(facts.items())
        assert await store.device(DeviceKey("other", "device-001")) is None


async def test_the_attempts_of_one_device(database: str) -> None:
    keys = [attempt(1, run=3), attempt(1, run=2, rollout="a"), attempt(1, run=2, rollout="b")]
    async with Store(database) as store:
        await store.merge(Batch({key: downloaded(key.run) for key in (*keys, attempt(2))}))
        device = DeviceKey("default", "device-1")
        stored = await store.device_attempts(device)
        assert stored == [(key, downloaded(key.run)) for key in keys]
        assert await store.device_attempts(device, 1) == stored[:1]
        assert await store.device_attempts(DeviceKey("default", "nobody")) == []


async def test_a_finished_run_is_pruned_in_steps(database: str) -> None:
    async with Store(database) as store:
        facts = {attempt(n): downloaded(n) for n in range(25)}
        await store.merge(Batch({**facts, attempt(1, run=2): downloaded(99)}))
        assert await store.runs() == [
            StoredRun(RUN, 25, at(25)),
            StoredRun(RunKey("default", "thermostat", 2), 1, at(100)),
        ]
        assert await store.newest_run("default", "thermostat") == 2
        assert await store.newest_run("default", "nothing") == 0
        assert [await store.prune_run(RUN, 10) for _ in range(4)] == [10, 10, 5, 0]
        assert [item async for item in store.attempts(RUN)] == []
        # Its downloads went too: they would come back with the attempt.
        await store.merge(Batch({attempt(3): Facts()}))
        assert [item.facts async for item in store.attempts(RUN)] == [Facts()]
        assert len(await store.runs()) == 2


async def test_runs_that_nobody_refers_to_are_pruned_once_unheard_of(database: str) -> None:
    def trip(run: int, seconds: float) -> Trip:
        return Trip(run=run, ring="canary", failed=3, updated=0, at=at(seconds))

    async with Store(database) as store:
        many = {attempt(n, run=1): downloaded(n % 7) for n in range(1500)}
        kept = {
            attempt(1, run=2): downloaded(1),
            attempt(1, run=3): downloaded(100),
            attempt(1, run=1, rollout="other"): Facts(first_byte=at(101)),
        }
        await store.merge(Batch({**many, **kept, attempt(1, run=9, rollout="none"): Facts()}))
        for name, known in (
            ("thermostat", trip(1, 5)),
            ("thermostat", trip(2, 5)),
            ("thermostat", trip(3, 5)),
            ("gone", trip(4, 5)),
            ("gone", trip(5, 100)),
        ):
            await store.trip("default", name, known)
        assert await store.prune_runs({RunKey("default", "thermostat", 2)}, at(50)) == 1501
        assert {run.key for run in await store.runs()} == {RunKey(*key[:3]) for key in kept}
        left = {(found.rollout, found.trip.run) for found in await store.trips()}
        assert left == {("thermostat", 2), ("thermostat", 3), ("gone", 5)}
        assert await store.prune_runs(set(), at(1000)) == 3
        assert await store.runs() == []
        assert await store.trips() == []


async def test_devices_beyond_the_cap_are_pruned_the_longest_unseen_first(database: str) -> None:
    async with Store(database) as store:
        devices = {DeviceKey("default", f"device-{n}"): seen(0, n) for n in range(20)}
        await store.merge(Batch({attempt(n): downloaded(n) for n in range(20)}, devices))
        assert await store.cap_devices(20) == 0
        assert [await store.cap_devices(7, 10) for _ in range(3)] == [10, 3, 0]
        left = {DeviceKey("default", f"device-{n}") for n in range(13, 20)}
        assert {item.key async for item in store.devices()} == left
        # With their attempts, and the downloads of these.
        assert {item.key async for item in store.attempts(RUN)} == {
            attempt(n) for n in range(13, 20)
        }
        await store.merge(Batch({attempt(3): Facts()}))
        assert (await store.device_attempts(DeviceKey("default", "device-3")))[0].facts == Facts()


async def test_devices_that_a_replica_hears_of_now_stay(postgres_database: str) -> None:
    engine = open_engine(postgres_database)
    try:
        async with Store(postgres_database) as store:
            old = {DeviceKey("default", f"device-{n}"): seen(0, 1) for n in range(3)}
            await store.merge(Batch(devices=old))
            async with transaction(engine, writes=True) as connection:
                heard = device_row(DeviceKey("default", "device-1"), seen(0, 99), 1)
                await merging("postgresql").devices.run(connection, [heard])
                assert await store.prune_devices(at(50)) == 2
            assert await store.prune_devices(at(50)) == 0
            assert [item.key.device async for item in store.devices()] == ["device-1"]
    finally:
        await engine.dispose()


async def test_devices_long_unseen_are_pruned_in_steps(database: str) -> None:
    async with Store(database) as store:
        old = {DeviceKey("default", f"old-{n}"): seen(0, n) for n in range(15)}
        new = {DeviceKey("default", f"new-{n}"): seen(0, 100) for n in range(5)}
        await store.merge(Batch(devices={**old, **new}))
        assert [await store.prune_devices(at(100), 10) for _ in range(3)] == [10, 5, 0]
        assert {item.key async for item in store.devices()} == set(new)


def test_polls_over_a_span() -> None:
    span = timedelta(minutes=10)

    def polled_over(facts: DeviceFacts) -> bool:
        first, last = facts.first_poll, facts.last_poll
        return first is not None and last is not None and last - first >= span

    assert not polled_over(seen(0, 0))
    assert not polled_over(seen(0, 599).join(seen(30, 599)))
    assert polled_over(seen(0, 0).join(seen(600, 600)))
    assert not polled_over(DeviceFacts(first_seen=at(0), last_seen=at(9999)))
