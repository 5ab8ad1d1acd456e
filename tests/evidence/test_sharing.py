"""What replicas tell each other through the database beside facts: trips, and what they serve."""

import asyncio
from datetime import timedelta

from otaflux_policy.counts import Trip
from otaflux_policy.served import Replica, ServedPolicy
from otaflux_server.evidence.databases import open_engine, transaction
from otaflux_server.evidence.records import StoredTrip
from otaflux_server.evidence.rows import microseconds
from otaflux_server.evidence.schema import replicas
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at


def trip(run: int, failed: int = 3) -> Trip:
    return Trip(run=run, ring="canary", failed=failed, updated=1, at=at(failed))


def replica(name: str, seconds: float) -> Replica:
    served = ServedPolicy(namespace="default", name="thermostat", created_at=at(0), revision="r")
    return Replica(
        name=name,
        started_at=at(0),
        seen_at=at(seconds),
        database_schema="0001",
        schema_versions=(1,),
        policies=(served,),
    )


async def test_the_first_trip_of_a_run_stays(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        assert await one.trip("default", "thermostat", trip(1)) == trip(1)
        assert await other.trip("default", "thermostat", trip(1, 9)) == trip(1)
        assert await other.trip("default", "thermostat", trip(2, 9)) == trip(2, 9)
        await one.trip("other", "thermostat", trip(1, 4))
        stored = [
            StoredTrip("default", "thermostat", trip(1)),
            StoredTrip("default", "thermostat", trip(2, 9)),
            StoredTrip("other", "thermostat", trip(1, 4)),
        ]
        assert await one.trips() == stored
        assert (await one.changed()).trips == stored


async def test_replicas_that_trip_together_agree(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        told = await asyncio.gather(
            *((one, other)[n % 2].trip("default", "thermostat", trip(1, n)) for n in range(20))
        )
        assert [StoredTrip("default", "thermostat", told[0])] == await one.trips()
    assert set(told) == {told[0]}


async def test_replicas_tell_what_they_serve_while_they_live(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        assert await one.replicas(at(0)) == []
        await one.heartbeat(replica("b", 10))
        await other.heartbeat(replica("a", 14))
        await other.heartbeat(replica("a", 16))
        assert await one.replicas(at(16)) == [replica("a", 16), replica("b", 10)]
        live = [r.live for r in await one.replicas(at(16.1))]
        assert live == [True, False]
        live = [r.live for r in await one.replicas(at(40), interval=10)]
        assert live == [True, True]
        day = timedelta(days=1).total_seconds()
        await one.heartbeat(replica("c", 10 + day))
        assert [r.name for r in await one.replicas(at(0))] == ["a", "b", "c"]
        await one.heartbeat(replica("c", 11 + day))
        assert [r.name for r in await one.replicas(at(0))] == ["a", "c"]


async def test_a_replica_of_another_version_lives_and_reads_no_policies(database: str) -> None:
    newer = {"name": "newer", "seen_at": microseconds(at(3)), "replica": '{"what": "ever"}'}
    engine = open_engine(database)
    try:
        async with transaction(engine, writes=True) as connection:
            await connection.execute(replicas.insert(), newer)
    finally:
        await engine.dispose()
    async with Store(database) as store:
        (found,) = await store.replicas(at(4))
    assert (found.name, found.live, found.schema_versions) == ("newer", True, ())


async def test_a_database_knows_when_it_was_restored(database: str) -> None:
    async with Store(database) as store:
        assert await store.restored_at() is None
        await store.mark_restored(at(5))
        assert await store.restored_at() == at(5)
