"""What is stored is read in pages, and removed in bounded steps."""

from datetime import timedelta

from otaflux_policy.facts import Download, Facts
from otaflux_server.evidence.records import DeviceFacts, DeviceKey, RunKey, StoredRun
from otaflux_server.evidence.stores import Batch, Store
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
            StoredRun(RUN, 25, at(24)),
            StoredRun(RunKey("default", "thermostat", 2), 1, at(99)),
        ]
        assert await store.newest_run("default", "thermostat") == 2
        assert await store.newest_run("default", "nothing") == 0
        assert [await store.prune_run(RUN, 10) for _ in range(4)] == [10, 10, 5, 0]
        assert [item async for item in store.attempts(RUN)] == []
        # Its downloads went too: they would come back with the attempt.
        await store.merge(Batch({attempt(3): Facts()}))
        assert [item.facts async for item in store.attempts(RUN)] == [Facts()]
        assert len(await store.runs()) == 2


async def test_devices_long_unseen_are_pruned_in_steps(database: str) -> None:
    async with Store(database) as store:
        old = {DeviceKey("default", f"old-{n}"): seen(0, n) for n in range(15)}
        new = {DeviceKey("default", f"new-{n}"): seen(0, 100) for n in range(5)}
        await store.merge(Batch(devices={**old, **new}))
        assert [await store.prune_devices(at(100), 10) for _ in range(3)] == [10, 5, 0]
        assert {item.key async for item in store.devices()} == set(new)


def test_polls_over_a_span() -> None:
    span = timedelta(minutes=10)
    assert not seen(0, 0).polled_over(span)
    assert not seen(0, 599).join(seen(30, 599)).polled_over(span)
    assert seen(0, 0).join(seen(600, 600)).polled_over(span)
    assert not DeviceFacts(first_seen=at(0), last_seen=at(9999)).polled_over(span)
