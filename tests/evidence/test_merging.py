"""Whatever the order, the duplicates and the replicas: what is stored is the join of all facts."""

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta
from functools import reduce

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otaflux_policy.evidence import Terms, standing
from otaflux_policy.facts import Facts, FirstOffer, ReportedFailure, join_all
from otaflux_server.evidence.records import AttemptKey, Batch, DeviceFacts, DeviceKey, RunKey
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import DIGEST, TERMS, at, attempt, device_facts, facts

_rollouts = itertools.count(1)
_several = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HASTY = Terms(
    device_timeout=timedelta(seconds=4),
    polled=True,
    install_grace=timedelta(seconds=1),
    poll_gap=timedelta(seconds=1),
    request_within=timedelta(seconds=1),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[str, Facts]], list[list[tuple[str, Facts]]]]:
    """Facts by device, and what each of two replicas gets of them: in any order, some twice."""
    parts = draw(st.lists(st.tuples(st.sampled_from("ab"), facts), min_size=1, max_size=8))
    replicas = []
    for extra in (draw(st.lists(st.sampled_from(parts), max_size=4)) for _ in range(2)):
        replicas.append(extra)
    for part in parts:
        replicas[draw(st.integers(0, 1))].append(part)
    return parts, [draw(st.permutations(replica)) for replica in replicas]


@_several
@given(given_=deliveries())
async def test_attempts_of_two_replicas(
    database: str, given_: tuple[list[tuple[str, Facts]], list[list[tuple[str, Facts]]]]
) -> None:
    parts, replicas = given_
    run = RunKey("default", f"rollout-{next(_rollouts)}", 3)

    def key(device: str) -> AttemptKey:
        return AttemptKey(*run, DIGEST, device)

    async def deliver(store: Store, delivered: list[tuple[str, Facts]]) -> None:
        half = len(delivered) // 2
        for some in (delivered[:half], delivered[half:]):
            batch: dict[AttemptKey, Facts] = {}
            for device, known in some:
                batch[key(device)] = batch.get(key(device), Facts()).join(known)
            await store.merge(Batch(batch))

    async with Store(database) as one, Store(database) as other:
        await asyncio.gather(deliver(one, replicas[0]), deliver(other, replicas[1]))
        stored = {item.key: item.facts async for item in one.attempts(run)}
    joined = {
        key(device): join_all(known for owner, known in parts if owner == device)
        for device, _ in parts
    }
    assert stored == joined
    for now in (at(-10), at(3), at(10), at(86_400), at(90_000)):
        for terms in (TERMS, replace(TERMS, polled=True), HASTY):
            states = {key: standing(known, terms, now) for key, known in stored.items()}
            assert states == {key: standing(known, terms, now) for key, known in joined.items()}


@_several
@given(parts=st.lists(device_facts, min_size=1, max_size=6), data=st.data())
async def test_devices_of_two_replicas(
    database: str, parts: list[DeviceFacts], data: st.DataObject
) -> None:
    key = DeviceKey("default", f"device-{next(_rollouts)}")
    split = data.draw(st.integers(0, len(parts)))
    order = data.draw(st.permutations(parts))

    async def deliver(store: Store, delivered: list[DeviceFacts]) -> None:
        for known in delivered:
            await store.merge(Batch(devices={key: known}))

    async with Store(database) as one, Store(database) as other:
        await asyncio.gather(
            deliver(one, order[:split]), deliver(other, [*order[split:], order[0]])
        )
        assert await other.device(key) == reduce(DeviceFacts.join, parts)


async def test_batches_that_overlap_never_wait_for_each_other_for_ever(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        keys = [attempt(n) for n in range(300)]
        forth = Batch({key: Facts(last_poll=at(1)) for key in keys})
        back = Batch({key: Facts(first_byte=at(2)) for key in reversed(keys)})
        await asyncio.gather(*(store.merge(b) for store in (one, other) for b in (forth, back) * 3))
        stored = [item.facts async for item in one.attempts(RunKey("default", "thermostat", 1))]
    assert stored == [Facts(last_poll=at(1), first_byte=at(2))] * 300


async def test_text_that_no_database_takes_is_stored_all_the_same(database: str) -> None:
    known = Facts(
        failure=ReportedFailure(at(1), "E\0\ud800" + "x" * 500), first_offer=FirstOffer(at(0), "c")
    )
    async with Store(database) as store:
        await store.merge(Batch({attempt(1): known}))
        (stored,) = [
            item.facts async for item in store.attempts(RunKey("default", "thermostat", 1))
        ]
    assert stored.first_offer == known.first_offer
    assert stored.failure == ReportedFailure(at(1), "E\ufffd?" + "x" * 253)
