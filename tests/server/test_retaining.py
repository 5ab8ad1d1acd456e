"""What is too old is removed from the database and from memory; what is in use stays."""

import time
from datetime import UTC, datetime, timedelta

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.contract import ReleaseRun
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts, FirstOffer
from otaflux_server.counting import Counting
from otaflux_server.devices import DeviceRecord, Devices
from otaflux_server.evidence.records import AttemptKey, Batch, DeviceFacts, DeviceKey
from otaflux_server.evidence.stores import Store
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.retaining import Retention
from tests.server.counted_devices import store as policies_with
from tests.server.fleets import NAMESPACE, policy, release

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=91)
TARGET, GONE = release("1.4.0"), release("1.3.9")


def facts(at: datetime) -> Facts:
    return Facts(first_offer=FirstOffer(at, "all"), last_offer=at)


class Fleet:
    """Devices in memory and in the database: an old one, and one seen now with old attempts."""

    def __init__(self, store: Store, policies: PolicyStore) -> None:
        self.store = store
        self.devices = Devices(100)
        self.counting = Counting(policies, scan_seconds=0)
        self.counting.loaded()
        self.devices.forgets = self.counting.forgotten
        self.retention = Retention(
            store, policies, self.devices, self.counting.changed, days=90, most_devices=50
        )

    async def add(self, name: str, seen: datetime, attempts: dict[AttemptRef, Facts]) -> None:
        record = self.devices.take_up(NAMESPACE, name, seen.timestamp())
        assert record is not None
        record.first_poll = record.last_poll = seen.timestamp()
        record.attempts = {"thermostat": dict(attempts)}
        self.counting.changed(record)
        await self.store.merge(
            Batch(
                {
                    AttemptKey(NAMESPACE, "thermostat", *ref, name): known
                    for ref, known in attempts.items()
                },
                {DeviceKey(NAMESPACE, name): DeviceFacts(first_seen=seen, last_seen=seen)},
            )
        )

    def known(self, name: str) -> set[int]:
        record = self.devices.get(NAMESPACE, name)
        assert record is not None
        return {ref.run for ref in record.attempts.get("thermostat", {})}

    async def stored(self, name: str) -> set[int]:
        found = await self.store.device_attempts(DeviceKey(NAMESPACE, name))
        return {attempt.key.run for attempt in found}

    def members(self) -> int:
        counts = self.counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        return counts.total.members


def current() -> PolicyStore:
    return policies_with(
        policy(
            run=9,
            target=TARGET,
            rollback_from=(ReleaseRun(version="1.3.9", digest=GONE.digest, run=8),),
        )
    )


async def test_devices_unseen_for_long_are_gone(database: str) -> None:
    async with Store(database) as store:
        fleet = Fleet(store, current())
        await fleet.add("old", OLD, {AttemptRef(9, TARGET.digest): facts(OLD)})
        await fleet.add("new", NOW, {AttemptRef(9, TARGET.digest): facts(OLD)})
        assert fleet.members() == 2
        await fleet.retention.prune()
        assert [record.device.id for record in fleet.devices] == ["new"]
        assert [device.key.device async for device in store.devices()] == ["new"]
        assert await fleet.stored("old") == set()
        assert fleet.members() == 1


async def test_a_clock_that_jumps_ahead_removes_nothing_at_once(sqlite_database: str) -> None:
    async with Store(sqlite_database) as store:
        devices, now = Devices(9), NOW.timestamp()
        retention = Retention(
            store, current(), devices, lambda _: None, clock=lambda: now, monotonic=lambda: 5.0
        )
        assert devices.take_up(NAMESPACE, "a", now) is not None
        now += 20 * 365 * 86400
        await retention.prune()
        assert len(devices) == 1
        await retention.prune()
        assert len(devices) == 0


async def test_runs_that_ended_long_ago_are_gone(database: str) -> None:
    async with Store(database) as store:
        fleet = Fleet(store, current())
        attempts = {
            AttemptRef(5, TARGET.digest): facts(OLD),
            AttemptRef(6, TARGET.digest): facts(NOW),
            AttemptRef(8, GONE.digest): facts(OLD),
            AttemptRef(9, TARGET.digest): facts(OLD),
        }
        await fleet.add("a", NOW, attempts)
        await fleet.retention.prune()
        assert fleet.known("a") == {6, 8, 9}
        assert await fleet.stored("a") == {6, 8, 9}


async def test_a_rollout_that_is_gone_leaves_nothing(database: str) -> None:
    async with Store(database) as store:
        policies = current()
        fleet = Fleet(store, policies)
        await fleet.add("a", NOW, {AttemptRef(9, TARGET.digest): facts(OLD)})
        policies.remove_policy(NAMESPACE, "thermostat")
        await fleet.retention.prune()
        record = fleet.devices.get(NAMESPACE, "a")
        assert record is not None
        assert record.attempts == {}
        assert await fleet.stored("a") == set()


async def test_the_database_is_bounded(database: str) -> None:
    async with Store(database) as store:
        fleet = Fleet(store, current())
        for i in range(60):
            await fleet.add(f"d{i:02}", NOW - timedelta(hours=i), {})
        await fleet.retention.prune()
        left = [device.key.device async for device in store.devices()]
        assert left == [f"d{i:02}" for i in range(50)]


async def test_nothing_is_removed_while_the_policies_are_not_known(sqlite_database: str) -> None:
    async with Store(sqlite_database) as store:
        fleet = Fleet(store, PolicyStore(Metrics()))
        await fleet.add("a", OLD, {AttemptRef(5, TARGET.digest): facts(OLD)})
        await fleet.retention.prune()
        assert fleet.known("a") == await fleet.stored("a") == {5}


def test_a_record_that_is_replaced_is_not_forgotten() -> None:
    devices = Devices(10)
    forgotten: list[DeviceRecord] = []
    devices.forgets = forgotten.append
    now = time.time()
    record = devices.seen(NAMESPACE, "a", "native", now)
    devices.forget(DeviceRecord(Device(NAMESPACE, "a"), "native", now))
    assert (len(devices), forgotten) == (1, [])
    devices.forget(record)
    assert (len(devices), forgotten) == (0, [record])
