"""Counts that follow each change are those of a fresh count, whatever happened before."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otaflux_policy.assessing import assess, deciding, terms
from otaflux_policy.attempts import IN_FLIGHT, AttemptRef
from otaflux_policy.contract import Release, ReleaseRun, Ring
from otaflux_policy.counts import RolloutCounts, Tally, member_share, outcome_share
from otaflux_policy.decisions import Match, match
from otaflux_policy.devices import Device
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_server.devices import DeviceRecord
from otaflux_server.policies import PolicyStore
from tests.policy.strategies import MODELS, VERSIONS
from tests.server.counted_devices import (
    IDS,
    RELEASES,
    SCAN,
    SPANS,
    STABLE,
    Clock,
    at,
    known,
    publish,
    store,
)
from tests.server.fleets import NAMESPACE, group, policy

names = st.sampled_from(("alpha", "beta"))
offsets = st.integers(-80, 0)
maybe = st.none() | offsets
a_ring = st.sampled_from(("canary", "rest", "gone"))


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
        counts = over or rules.groups.names_exactly(record.device.id)
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
            shadowed += counts and isinstance(matched, Match) and isinstance(alone, Match)
            share = outcome_share(counted, assessed)
        if share is not None and counts:
            tally.add(share)
        elif share is not None:
            tally.note(share, 1)
    return tally.counts(counted, now, shadowed=shadowed)


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

    @rule(
        name=st.sampled_from(IDS),
        version=st.none() | st.sampled_from(VERSIONS),
        model=st.none() | st.sampled_from(MODELS),
    )
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
