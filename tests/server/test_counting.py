"""Counts follow changes of policies, of devices and of time, and never mix them up."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts, FirstOffer, ReportedFailure
from otaflux_server.counting import Counting
from otaflux_server.devices import DeviceRecord
from otaflux_server.weighing import Weigher
from tests.server.counted_devices import (
    SCAN,
    SPANS,
    Clock,
    at,
    device,
    known,
    publish,
    settle,
    stepwise,
    store,
)
from tests.server.fleets import NAMESPACE, group, policy, release, until


def members(counting: Counting, name: str = "thermostat") -> int:
    counts = counting.counts(NAMESPACE, name)
    assert counts is not None
    return counts.total.members


def uncounted(counting: Counting) -> int:
    counts = counting.counts(NAMESPACE, "thermostat")
    assert counts is not None
    return counts.total.uncounted


class TestChangesOfPolicies:
    def test_until_all_are_counted_the_counts_are_those_from_before(self) -> None:
        clock = Clock()
        policies = store(before := policy(run=1))
        counting = stepwise(policies, clock)
        records = [device(f"d{i}", clock) for i in range(5)]
        for record in records:
            counting.changed(record)
        counting.loaded()
        settle(counting)
        complete = counting.counts(NAMESPACE, "thermostat")
        assert complete is not None
        publish(policies, after := policy(run=2, sequence=1, device_selector={"names": ["d0"]}))
        seen = {before.revision: complete}
        while not counting.settled:
            assert counting.counts(NAMESPACE, "thermostat") == seen[before.revision]
            clock.now += 1
            counting.changed(records[3])
            counting.work(0)
        now = counting.counts(NAMESPACE, "thermostat")
        assert now is not None
        assert (now.revision, now.run, now.total.members) == (after.revision, 2, 1)
        assert now.at > complete.at

    def test_a_second_change_begins_anew(self) -> None:
        clock = Clock()
        policies = store(before := policy())
        counting = stepwise(policies, clock)
        for i in range(5):
            counting.changed(device(f"d{i}", clock))
        counting.loaded()
        settle(counting)
        publish(policies, policy(sequence=1, device_selector={"names": ["d0"]}))
        counting.work(0)
        publish(policies, after := policy(sequence=2, device_selector={"names": ["d1", "d2"]}))
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert (counts.revision, counts.total.members) == (before.revision, 5)
        settle(counting)
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert (counts.revision, counts.total.members) == (after.revision, 2)

    def test_rules_that_change_all_the_time_are_counted_all_the_same(self) -> None:
        clock = Clock()
        policies = store(policy())
        counting = stepwise(policies, clock)
        for i in range(50):
            counting.changed(device(f"d{i}", clock))
        counting.loaded()
        settle(counting)
        revisions = set()
        for sequence in range(1, 200):
            publish(policies, policy(sequence=sequence))
            counting.work(0)
            counts = counting.counts(NAMESPACE, "thermostat")
            assert counts is not None
            assert counts.total.members == 50
            revisions.add(counts.revision)
        assert len(revisions) > 2
        settle(counting)
        current = policies.policy(NAMESPACE, "thermostat")
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert current is not None
        assert counts.revision == current.revision

    def test_a_new_rollout_is_not_counted_before_all_devices_are(self) -> None:
        clock = Clock()
        policies = store(policy())
        counting = stepwise(policies, clock)
        for i in range(3):
            counting.changed(device(f"d{i}", clock))
        counting.loaded()
        settle(counting)
        publish(policies, policy("second", priority=9))
        assert counting.counts(NAMESPACE, "second") is None
        settle(counting)
        assert members(counting, "second") == 3
        shadowed = counting.counts(NAMESPACE, "thermostat")
        assert shadowed is not None
        assert (shadowed.total.members, shadowed.shadowed) == (0, 3)

    def test_a_small_fleet_is_counted_within_the_change(self) -> None:
        clock = Clock()
        policies = store(policy())
        counting = known(policies, clock=clock)
        counting.changed(device("a", clock))
        counting.loaded()
        publish(policies, after := policy(sequence=1))
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert counts.revision == after.revision

    async def test_a_fault_with_one_device_keeps_nobody_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weigh = Weigher.weigh

        def fails(self: Weigher, record: DeviceRecord, *args: Any) -> Any:
            if record.device.id == "odd":
                raise RuntimeError("a fault of ours")
            return weigh(self, record, *args)

        clock, told = Clock(), list[bool]()
        policies = store(policy())
        async with known(policies, clock=clock) as counting:
            for name in ("a", "odd", "b"):
                counting.changed(device(name, clock))
            counting.loaded()
            assert members(counting) == 3
            policies.subscribe(lambda: told.append(True))
            monkeypatch.setattr(Weigher, "weigh", fails)
            publish(policies, policy(sequence=1))
            assert told
            await until(lambda: counting.settled)
            assert members(counting) == 2

    def test_a_rollout_that_is_gone_has_no_counts(self) -> None:
        policies = store(policy())
        counting = known(policies, clock=Clock())
        counting.loaded()
        assert members(counting) == 0
        policies.remove_policy(NAMESPACE, "thermostat")
        assert counting.counts(NAMESPACE, "thermostat") is None


def test_nothing_is_counted_before_the_database_was_read() -> None:
    clock = Clock()
    counting = known(store(policy()), clock=clock)
    counting.changed(device("a", clock))
    assert counting.counts(NAMESPACE, "thermostat") is None
    assert dict(counting.slots(NAMESPACE)) == {}
    counting.loaded()
    assert members(counting) == 1


class TestWhoCounts:
    def test_an_id_that_asked_once_does_not(self) -> None:
        clock = Clock()
        counting = known(store(policy()), clock=clock)
        counting.loaded()
        scanner = device("x", clock, polled=False)
        scanner.first_poll = scanner.last_poll = clock.now
        counting.changed(scanner)
        assert (members(counting), uncounted(counting)) == (0, 1)
        # Its polls are of no interest for so long.
        assert not scanner.dormant
        clock.now += SCAN
        counting.work(float("inf"))
        assert scanner.dormant
        assert members(counting) == 0
        scanner.last_poll = scanner.last_seen = clock.now
        counting.changed(scanner)
        assert (members(counting), uncounted(counting)) == (1, 0)

    def test_one_that_a_group_names_does(self) -> None:
        clock = Clock()
        policies = store(policy(), group("some", names=("x", "y*")))
        counting = known(policies, clock=clock)
        counting.loaded()
        for name in ("x", "y1"):
            counting.changed(device(name, clock, polled=False))
        assert members(counting) == 1

    def test_after_a_restore_only_those_heard_of_since_have_succeeded(self) -> None:
        clock = Clock()
        target = release("1.4.0")
        counting = known(store(policy(target=target)), clock=clock)
        record = device("a", clock, version="1.4.0")
        counting.changed(record)
        clock.now += 50
        counting.loaded(at(clock.now))
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert (counts.total.updated, counts.total.succeeded) == (1, 0)
        assert record.dormant
        clock.now += 1
        record.last_seen = record.last_poll = clock.now
        counting.changed(record)
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert counts.total.succeeded == 1
        assert not record.dormant


def test_an_outcome_stays_with_the_rollout_that_lost_the_device() -> None:
    clock = Clock()
    target = release("1.4.0")
    policies = store(policy(target=target))
    counting = known(policies, clock=clock)
    counting.loaded()
    record = device("a", clock)
    now = at(clock.now)
    facts = Facts(
        first_offer=FirstOffer(now, "all"), last_offer=now, failure=ReportedFailure(now, "boot")
    )
    record.attempts = {"thermostat": {AttemptRef(1, target.digest): facts}}
    counting.changed(record)
    publish(policies, policy("winner", priority=1))
    counts = counting.counts(NAMESPACE, "thermostat")
    assert counts is not None
    assert (counts.total.members, counts.shadowed) == (0, 1)
    assert counts.ring("all").failed_outcomes == 1
    assert members(counting, "winner") == 1


class TestTime:
    def test_a_clock_that_goes_back_takes_nothing_with_it(self) -> None:
        clock = Clock()
        counting = known(store(policy(active_within=200)), clock=clock)
        counting.changed(device("a", clock))
        counting.loaded()
        clock.now += 10**6
        counting.work(float("inf"))
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert counts.total.active == 0
        clock.now -= 10**6
        counting.work(float("inf"))
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert counts.total.active == 1

    def test_a_device_that_is_gone_for_long_is_not_active(self) -> None:
        clock = Clock()
        counting = known(store(policy(active_within=200)), clock=clock)
        counting.changed(record := device("a", clock))
        counting.loaded()
        clock.now += 200
        counting.work(float("inf"))
        assert not record.dormant
        clock.now += 1
        assert counting.work(float("inf")) > 0
        counts = counting.counts(NAMESPACE, "thermostat")
        assert counts is not None
        assert (counts.total.members, counts.total.active) == (1, 0)
        assert record.dormant

    async def test_it_is_noticed_without_any_contact(self) -> None:
        """By the real clock, in the background."""
        target = release("1.4.0")
        policies = store(policy(target=target, device_timeout=1))
        async with Counting(policies) as counting:
            counting.loaded()
            record = DeviceRecord(Device(NAMESPACE, "a"), "native", time.time())
            record.first_poll, record.last_poll = record.last_seen - 1000, record.last_seen
            begun = datetime.now(UTC)
            facts = Facts(first_offer=FirstOffer(begun, "all"), last_offer=begun, first_byte=begun)
            record.attempts = {"thermostat": {AttemptRef(1, target.digest): facts}}
            counting.changed(record)

            def timed_out() -> bool:
                counts = counting.counts(NAMESPACE, "thermostat")
                return counts is not None and counts.total.timed_out == 1

            assert not timed_out()
            await until(timed_out)

    def test_the_calendar_is_as_large_as_the_fleet(self) -> None:
        clock = Clock()
        counting = known(store(policy(active_within=10**6)), clock=clock)
        counting.loaded()
        record = device("a", clock)
        for _ in range(5000):
            clock.now += 1
            record.last_seen = clock.now
            counting.changed(record)
        assert len(counting._calendar._ticks) < 2000
        counting.forgotten(record)
        assert counting._calendar._entries == {}
        assert counting.work(float("inf")) > 0


async def test_a_large_fleet_keeps_nobody_waiting() -> None:
    """Others have their turn between slices."""
    clock = Clock()
    policies = store(policy())
    async with Counting(policies, spans=SPANS, scan_seconds=SCAN, clock=clock) as counting:
        for i in range(3000):
            counting.changed(device(f"d{i}", clock))
        turns = 0
        counting.loaded()
        assert not counting.settled
        while not counting.settled:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 2
        assert members(counting) == 3000
