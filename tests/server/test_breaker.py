"""The breaker: it opens by what is counted here, at once, and stays open for the run."""

import asyncio
import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.contract import FailureAction, FailureRule, Policy, Release, Ring
from otaflux_policy.counts import Trip
from otaflux_policy.facts import Facts, FirstOffer, ReportedFailure
from otaflux_server.breakers import Breakers
from otaflux_server.counting import Counting
from otaflux_server.devices import DeviceRecord
from otaflux_server.evidence.databases import FactsRefused, StoreUnavailable
from otaflux_server.policies import PolicyStore
from tests.server.counted_devices import SCAN, SPANS, Clock, at, device, publish, settle, stepwise
from tests.server.counted_devices import store as policies_with
from tests.server.fleets import NAMESPACE, policy, release, until

TARGET = release("1.4.0")
RULE = FailureRule(max_percent=20, min_sample=3, action=FailureAction.PAUSE)
CANARY = Ring(name="canary", open=True, failure=RULE)


def guarded(**fields: Any) -> Policy:
    values: dict[str, Any] = {"target": TARGET, "rings": (CANARY,)}
    return policy(**(values | fields))


class Kept:
    """A store of trips that can be lost."""

    def __init__(self) -> None:
        self.lost = False
        self.refused = ""
        self.trips: dict[tuple[str, str, int], Trip] = {}
        self.tried = 0

    async def trip(self, namespace: str, rollout: str, trip: Trip) -> Trip:
        self.tried += 1
        if self.lost:
            raise StoreUnavailable("the database is lost")
        if rollout == self.refused:
            raise FactsRefused("never")
        return self.trips.setdefault((namespace, rollout, trip.run), trip)


class Fleet:
    def __init__(self, policies: PolicyStore, *, kept: Kept | None = None) -> None:
        self.clock = Clock()
        self.counting = Counting(
            policies, spans=SPANS, scan_seconds=SCAN, store=kept, clock=self.clock
        )
        self.counting.loaded()
        self.opened: list[tuple[str, str]] = []
        self.counting.subscribe(lambda *key: self.opened.append(key))
        self.records: dict[str, DeviceRecord] = {}

    def outcome(
        self, name: str, good: bool, *, run: int = 1, target: Release = TARGET, ring: str = "canary"
    ) -> None:
        record = self.records.setdefault(name, device(name, self.clock))
        now = at(self.clock.now)
        facts = Facts(first_offer=FirstOffer(now, ring), last_offer=now, first_byte=now)
        if good:
            facts = facts.join(Facts(target_first=now, target_last=now))
        else:
            facts = facts.join(Facts(failure=ReportedFailure(now, "boot")))
        attempts = record.attempts.setdefault("thermostat", {})
        ref = AttemptRef(run, target.digest)
        attempts[ref] = attempts.get(ref, Facts()).join(facts)
        self.counting.changed(record)

    @property
    def trip(self) -> Trip | None:
        return self.counting.trip(NAMESPACE, "thermostat")


def test_it_opens_with_the_outcome_that_is_one_too_many() -> None:
    fleet = Fleet(policies_with(guarded()))
    generation = fleet.counting.generation
    fleet.outcome("a", False)
    fleet.outcome("b", False)
    assert (fleet.trip, fleet.opened) == (None, [])
    assert fleet.counting.generation == generation
    # Enough outcomes to judge by: it need not be a failure that makes it so.
    fleet.outcome("c", True)
    assert fleet.trip == Trip(run=1, ring="canary", failed=2, updated=1, at=at(fleet.clock.now))
    assert fleet.opened == [(NAMESPACE, "thermostat")]
    assert fleet.counting.tripped(NAMESPACE) == {"thermostat"}
    assert fleet.counting.generation > generation


def test_it_stays_open_when_devices_recover() -> None:
    fleet = Fleet(policies_with(guarded()))
    for name in "abc":
        fleet.outcome(name, False)
    trip = fleet.trip
    assert trip is not None
    fleet.clock.now += 10
    for name in "abcdef":
        fleet.outcome(name, True)
    assert fleet.trip == trip
    assert fleet.opened == [(NAMESPACE, "thermostat")]


def test_it_stays_open_when_the_policy_of_the_run_changes() -> None:
    policies = policies_with(guarded())
    fleet = Fleet(policies)
    for name in "abc":
        fleet.outcome(name, False)
    trip = fleet.trip
    publish(policies, guarded(sequence=1, rings=(CANARY, Ring(name="rest"))))
    assert fleet.trip == trip
    lenient = CANARY.model_copy(update={"failure": None})
    publish(policies, guarded(sequence=2, rings=(lenient,)))
    assert fleet.trip == trip


def test_a_new_run_closes_it() -> None:
    policies = policies_with(guarded())
    fleet = Fleet(policies)
    for name in "abc":
        fleet.outcome(name, False)
    publish(policies, guarded(sequence=1, run=2))
    assert fleet.trip is None
    assert fleet.counting.tripped(NAMESPACE) == frozenset()
    for name in "abc":
        fleet.outcome(name, False, run=2)
    assert fleet.trip is not None
    assert fleet.trip.run == 2
    assert len(fleet.opened) == 2


def test_a_policy_that_says_so_is_enough() -> None:
    policies = policies_with(guarded(tripped=True), policy("other"))
    fleet = Fleet(policies)
    assert fleet.counting.tripped(NAMESPACE) == {"thermostat"}
    assert fleet.trip is None
    publish(policies, guarded(sequence=1, run=2))
    assert fleet.counting.tripped(NAMESPACE) == frozenset()


def test_an_open_ring_is_judged_as_soon_as_all_are_counted() -> None:
    """Never by a part of the fleet: the first devices that are looked at may be the failed ones."""
    clock = Clock()
    policies = policies_with(guarded())
    counting = stepwise(policies, clock)
    counting.loaded()
    fleet = Fleet(policies)
    fleet.counting, fleet.clock = counting, clock
    for name in ("bad1", "bad2", "bad3"):
        fleet.records[name] = device(name, clock)
    for i in range(20):
        fleet.outcome(f"good{i:02}", True)
    for name in ("bad1", "bad2", "bad3"):
        fleet.outcome(name, False)
    assert counting.trip(NAMESPACE, "thermostat") is None
    policies.remove_policy(NAMESPACE, "thermostat")
    publish(policies, guarded(sequence=1))
    opened: list[str] = []
    counting.subscribe(lambda _, rollout: opened.append(rollout))
    while not counting.settled:
        counting.work(0)
        counting.changed(fleet.records["bad1"])
        assert opened == []
    strict = CANARY.model_copy(update={"failure": RULE.model_copy(update={"max_percent": 10})})
    publish(policies, guarded(sequence=2, rings=(strict,)))
    settle(counting)
    assert opened == ["thermostat"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=30))
def test_it_is_open_once_the_failures_were_too_many_at_any_time(
    outcomes: list[tuple[str, bool]],
) -> None:
    fleet = Fleet(policies_with(guarded()))
    known: dict[str, bool] = {}
    tripped = False
    for name, good in outcomes:
        fleet.clock.now += 1
        fleet.outcome(name, good)
        known[name] = good
        failed = sum(not good for good in known.values())
        tripped = tripped or (len(known) >= 3 and failed * 100 > 20 * len(known))
        assert (fleet.trip is not None) is tripped
    assert len(fleet.opened) == tripped


class TestTheStore:
    async def test_a_trip_is_written_at_once(self) -> None:
        kept = Kept()
        fleet = Fleet(policies_with(guarded()), kept=kept)
        async with fleet.counting:
            for name in "abc":
                fleet.outcome(name, False)
            await until(lambda: not fleet.counting.breakers.unwritten)
        assert kept.trips == {(NAMESPACE, "thermostat", 1): fleet.trip}

    async def test_without_it_the_breaker_opens_all_the_same(self) -> None:
        kept = Kept()
        kept.lost = True
        fleet = Fleet(policies_with(guarded()), kept=kept)
        async with fleet.counting:
            for name in "abc":
                fleet.outcome(name, False)
            assert fleet.trip is not None
            assert fleet.opened
            await until(lambda: kept.tried > 1)
            assert fleet.counting.breakers.unwritten == 1
            kept.lost = False
            await until(lambda: not fleet.counting.breakers.unwritten)
        assert kept.trips == {(NAMESPACE, "thermostat", 1): fleet.trip}

    async def test_one_that_cannot_be_written_holds_up_no_others(self) -> None:
        kept = Kept()
        breakers = Breakers(kept)
        trip = Trip(run=1, ring="r", failed=1, updated=0, at=at(0))
        kept.refused = "refused"
        breakers.open(NAMESPACE, "refused", trip)
        breakers.open(NAMESPACE, "kept", trip)
        assert not await breakers.write()
        assert list(kept.trips) == [(NAMESPACE, "kept", 1)]
        assert breakers.unwritten == 1
        kept.refused = ""
        assert await breakers.write()

    async def test_the_first_trip_of_the_run_is_that_of_all_replicas(self) -> None:
        kept = Kept()
        first = Trip(run=1, ring="canary", failed=9, updated=0, at=at(Clock().now - 1))
        kept.trips[NAMESPACE, "thermostat", 1] = first
        fleet = Fleet(policies_with(guarded()), kept=kept)
        async with fleet.counting:
            for name in "abc":
                fleet.outcome(name, False)
            await until(lambda: fleet.trip == first)

    async def test_what_waits_is_written_at_the_end(self) -> None:
        kept = Kept()
        breakers = Breakers(kept)
        breakers.open(NAMESPACE, "a", Trip(run=1, ring="r", failed=1, updated=0, at=at(0)))
        running = asyncio.create_task(breakers.run())
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert await breakers.write()
        assert list(kept.trips) == [(NAMESPACE, "a", 1)]

    def test_another_replicas_trip_counts_here(self) -> None:
        policies = policies_with(guarded())
        fleet = Fleet(policies)
        trip = Trip(run=1, ring="canary", failed=3, updated=0, at=at(fleet.clock.now))
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", trip)
        assert fleet.trip == trip
        assert fleet.opened == [(NAMESPACE, "thermostat")]
        assert fleet.counting.breakers.unwritten == 0
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", trip)
        assert len(fleet.opened) == 1

    def test_one_of_a_run_that_is_to_come_counts_then(self) -> None:
        policies = policies_with(guarded())
        fleet = Fleet(policies)
        trip = Trip(run=2, ring="canary", failed=3, updated=0, at=at(fleet.clock.now))
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", trip)
        assert fleet.trip is None
        publish(policies, guarded(sequence=1, run=2))
        assert fleet.trip == trip

    def test_one_of_the_next_run_does_not_close_this_ones(self) -> None:
        """Another server may have the next policy, and count by it, before this one."""
        fleet = Fleet(policies_with(guarded()))
        this, following = (
            Trip(run=run, ring="canary", failed=3, updated=0, at=at(fleet.clock.now))
            for run in (1, 2)
        )
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", this)
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", following)
        assert fleet.trip == this

    def test_one_of_an_old_run_does_not(self) -> None:
        fleet = Fleet(policies_with(guarded(run=5)))
        trip = Trip(run=4, ring="canary", failed=3, updated=0, at=at(fleet.clock.now))
        fleet.counting.tripped_elsewhere(NAMESPACE, "thermostat", trip)
        assert fleet.trip is None
        assert fleet.counting.tripped(NAMESPACE) == frozenset()
