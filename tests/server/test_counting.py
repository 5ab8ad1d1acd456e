"""Counts follow each change as a fresh count would (over 400 lines: a machine and its cases)."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otaflux_policy.assessing import Spans, assess, deciding, terms
from otaflux_policy.attempts import IN_FLIGHT, AttemptRef
from otaflux_policy.canonical import dumps
from otaflux_policy.contract import Policy, Release, ReleaseRun, Ring
from otaflux_policy.counts import RolloutCounts, Tally, member_share, outcome_share
from otaflux_policy.decisions import Match, match
from otaflux_policy.devices import Device
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_policy.groups import Group
from otaflux_server.counting import Counting
from otaflux_server.devices import DeviceRecord
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from tests.policy.strategies import MODELS, VERSIONS
from tests.server.fleets import NAMESPACE, group, policy, release, until

SCAN = 100.0
START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
SPANS = Spans(
    install_grace=timedelta(seconds=50),
    poll_gap=timedelta(seconds=10),
    request_within=timedelta(seconds=20),
)
IDS = ("kitchen-1", "kitchen-2", "lab-1", "lab-2", "stranger")
RELEASES = tuple(release(version) for version in ("1.4.0", "1.5.0"))
STABLE = release("1.3.2")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def known(policies: PolicyStore, *, clock: Clock, **fields: object) -> Counting:
    return Counting(policies, spans=SPANS, scan_seconds=SCAN, clock=clock)


def store(*published: Policy | Group) -> PolicyStore:
    policies = PolicyStore(Metrics())
    policies.connected()
    publish(policies, *published)
    return policies


def publish(policies: PolicyStore, *published: Policy | Group) -> None:
    for item in published:
        apply = policies.apply_policy if isinstance(item, Policy) else policies.apply_group
        assert apply(item.namespace, item.name, dumps(item))


def device(name: str, clock: Clock, *, polled: bool = True, **fields: str) -> DeviceRecord:
    """A device that counts, unless it is not `polled`."""
    record = DeviceRecord(Device(NAMESPACE, name, **fields), "native", clock.now)
    if polled:
        record.first_poll, record.last_poll = clock.now - SCAN, clock.now
    return record


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def fresh(
    policies: PolicyStore, records: list[DeviceRecord], clock: Clock, name: str
) -> RolloutCounts | None:
    """The counts, by looking at every device and every policy in turn."""
    counted = policies.policy(NAMESPACE, name)
    if counted is None:
        return None
    rules = policies.rules(NAMESPACE)
    now = at(clock.now)
    tally, shadowed = Tally(), 0
    for record in records:
        first, last = record.first_poll, record.last_poll
        over = first is not None and last is not None and last - first >= SCAN
        if not over and not rules.groups.names_exactly(record.device.id):
            continue
        assessed = assess(
            counted,
            record.attempts.get(name, {}),
            terms(counted, SPANS, reports=record.reports),
            now,
        )
        matched = match(rules.policies, rules.groups, record.device)
        if isinstance(matched, Match) and matched.policy.name == name:
            share = member_share(
                counted, matched.ring, record.device, assessed, seen=at(record.last_seen), now=now
            )
        else:
            alone = match([counted], rules.groups, record.device)
            shadowed += isinstance(matched, Match) and isinstance(alone, Match)
            share = outcome_share(counted, assessed)
        if share is not None:
            tally.add(share)
    return tally.counts(counted, now, shadowed=shadowed)


names = st.sampled_from(("alpha", "beta"))
offsets = st.integers(-80, 0)
maybe = st.none() | offsets
a_ring = st.sampled_from(("canary", "rest", "gone"))


class Fleet(RuleBasedStateMachine):
    """Devices, users and time do what they like; counts are compared at each rest."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.policies = store()
        self.counting = known(self.policies, clock=self.clock)
        self.records: dict[str, DeviceRecord] = {}
        self.sequence = 0

    @initialize(early=st.booleans())
    def load(self, early: bool) -> None:
        if early:
            for name in IDS[:3]:
                self.poll(name, None, None)
        self.counting.loaded()

    @rule(name=st.sampled_from(IDS), version=st.none() | st.sampled_from(VERSIONS),
          model=st.none() | st.sampled_from(MODELS))  # fmt: skip
    def poll(self, name: str, version: str | None, model: str | None) -> None:
        """As the fleet does it: told of when something changed, or when it had become dormant."""
        now = self.clock.now
        record = self.records.get(name)
        new = record is None
        if record is None:
            record = self.records[name] = DeviceRecord(Device(NAMESPACE, name), "native", now)
        record.last_seen = record.last_poll = now
        record.first_poll = record.first_poll if record.first_poll is not None else now
        said = Device(NAMESPACE, name, model, version, record.device.digest)
        changed = said != record.device
        record.device = said
        record.reports = record.reports or version is not None
        if new or changed or record.dormant:
            self.counting.changed(record)

    @precondition(lambda self: self.records)
    @rule(
        data=st.data(),
        rollout=names,
        run=st.integers(1, 2),
        attempted=st.none() | st.sampled_from((*RELEASES, STABLE)),
        offered=maybe,
        ring=a_ring,
        ended=maybe,
        first_byte=maybe,
        completed=maybe,
        reported=maybe,
        other=maybe,
        failed=maybe,
    )
    def learn(
        self,
        data: st.DataObject,
        rollout: str,
        run: int,
        attempted: Release | None,
        **drawn: object,
    ) -> None:
        record = self.records[data.draw(st.sampled_from(sorted(self.records)))]
        moments = {
            key: at(self.clock.now + value) if isinstance(value, int) else None
            for key, value in drawn.items()
        }
        begun, completed = moments["first_byte"], moments["completed"]
        offered, failed = moments["offered"], moments["failed"]
        facts = Facts(
            first_offer=FirstOffer(offered, str(drawn["ring"])) if offered else None,
            last_offer=offered,
            offer_ended=moments["ended"],
            first_byte=begun,
            downloads=(Download(begun, completed),) if begun and completed else (),
            target_first=moments["reported"],
            target_last=moments["reported"],
            other_first=moments["other"],
            other_last=moments["other"],
            failure=ReportedFailure(failed, "boot") if failed else None,
        )
        found = self.policies.policy(NAMESPACE, rollout)
        ref = deciding(found) if found is not None and attempted is None else None
        ref = ref or AttemptRef(run, (attempted or STABLE).digest)
        attempts = record.attempts.setdefault(rollout, {})
        attempts[ref] = attempts.get(ref, Facts()).join(facts)
        self.counting.changed(record)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        self.counting.forgotten(self.records.pop(data.draw(st.sampled_from(sorted(self.records)))))

    @rule(seconds=st.sampled_from((1, 30, 100, 250)))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def clock_goes_back(self) -> None:
        self.clock.now -= 500

    @rule(
        name=names,
        priority=st.integers(0, 1),
        run=st.integers(1, 2),
        released=st.none() | st.sampled_from(RELEASES),
        rolling_back=st.booleans(),
        selector=st.sampled_from(
            (
                {},
                {"names": ["kitchen-*"]},
                {"matchLabels": {"ring": "canary"}},
                {"names": ["lab-1"]},
            )
        ),
        models=st.sampled_from(((), ("thermostat-v2",))),
        opened=st.booleans(),
        percent=st.sampled_from((None, 50)),
    )
    def apply(self, name: str, run: int, rolling_back: bool, **drawn: object) -> None:
        self.sequence += 1
        rings = (
            Ring(
                name="canary",
                selector={"matchLabels": {"ring": "canary"}},
                open=drawn["opened"],
                max_concurrent=2,
            ),
            Ring(name="rest", percent=drawn["percent"]),
        )
        gone = tuple(
            ReleaseRun(version=item.version, digest=item.digest, run=run) for item in RELEASES[:1]
        )
        item = policy(
            name,
            sequence=self.sequence,
            priority=drawn["priority"],
            run=run,
            target=drawn["released"],
            stable=STABLE,
            rolling_back=rolling_back,
            rollback_from=gone if rolling_back else (),
            device_selector=drawn["selector"],
            compatibility={"models": drawn["models"]},
            rings=rings,
            device_timeout=60,
            active_within=200,
        )
        publish(self.policies, item)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.policies.remove_policy(NAMESPACE, name)

    @rule(ids=st.sets(st.sampled_from((*IDS, "lab-*"))), value=st.sampled_from(("canary", "x")))
    def regroup(self, ids: set[str], value: str) -> None:
        publish(self.policies, group("some", names=tuple(sorted(ids)), labels={"ring": value}))

    @rule()
    def work_a_little(self) -> None:
        self.counting.work(0)

    @rule()
    def rest(self) -> None:
        """All work is done: now every count is right."""
        self.counting.work(float("inf"))
        assert self.counting.settled
        for name in ("alpha", "beta"):
            expected = fresh(self.policies, list(self.records.values()), self.clock, name)
            assert self.counting.counts(NAMESPACE, name) == expected
            self.check_slots(name)

    def check_slots(self, name: str) -> None:
        found = self.policies.policy(NAMESPACE, name)
        free = self.counting.slots(NAMESPACE)
        if found is None:
            assert (name, "canary") not in free
            return
        taken: Counter[str] = Counter()
        for record in self.records.values():
            weight = self.counting.weight(record)
            assert weight is not None
            for rollout, share in weight.shares:
                if rollout == name and share.member and share.state in IN_FLIGHT:
                    taken[share.ring] += 1
        assert free[name, "canary"] == max(0, 2 - taken["canary"])

    @invariant()
    def states_sum_up_to_members(self) -> None:
        for name in ("alpha", "beta"):
            counts = self.counting.counts(NAMESPACE, name)
            for ring in (*counts.rings, counts.unplaced) if counts is not None else ():
                assert ring.members == sum(
                    (
                        ring.pending,
                        ring.offered,
                        ring.downloading,
                        ring.downloaded,
                        ring.installing,
                        ring.updated,
                        ring.failed,
                        ring.timed_out,
                        ring.withdrawn,
                        ring.not_requested,
                    )
                )
                assert 0 <= ring.succeeded <= ring.active <= ring.members
                assert sum(ring.codes.values()) == ring.failed

    def teardown(self) -> None:
        self.rest()


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Steps:
    """A clock by which every slice is over after one device."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 1.0
        return self._now


def stepwise(policies: PolicyStore, clock: Clock) -> Counting:
    return Counting(policies, spans=SPANS, scan_seconds=SCAN, clock=clock, monotonic=Steps())


def settle(counting: Counting) -> int:
    """How many slices it takes."""
    slices = 0
    while not counting.settled:
        counting.work(0)
        slices += 1
    return slices


def members(counting: Counting, name: str = "thermostat") -> int:
    counts = counting.counts(NAMESPACE, name)
    assert counts is not None
    return counts.total.members


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
        weigh = Counting.weigh

        def fails(self: Counting, record: DeviceRecord, *args: Any) -> Any:
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
            monkeypatch.setattr(Counting, "weigh", fails)
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
        assert members(counting) == 0
        # Its polls are of no interest for so long.
        assert not scanner.dormant
        clock.now += SCAN
        counting.work(float("inf"))
        assert scanner.dormant
        assert members(counting) == 0
        scanner.last_poll = scanner.last_seen = clock.now
        counting.changed(scanner)
        assert members(counting) == 1

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
