"""What holds of `advance` whatever happens, in whatever order.

`World.look` checks of each outcome that it is whole, names what it waits for, and that `advance`
on its own outcome changes nothing.
"""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from otaflux_operator.engine import Answer, Observation, Resolution, advance
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import RolloutStatus
from otaflux_policy.counts import RingCounts, RolloutCounts, Trip
from tests.operator.worlds import AT_ONCE, REPOSITORY, START, World, found

NAMES = ["ring-0", "ring-1", "ring-2", "ring-3"]
VERSIONS = st.sampled_from(["0.9.0", "1.0.0", "1.1.0", "1.2.0", "nightly"])


def _ordered(rings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [ring | {"percent": 10 * (place + 1)} for place, ring in enumerate(rings)]


RINGS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(NAMES),
            "gate": st.sampled_from(["Automatic", "Automatic", "Approval"]),
        },
        optional={
            "success": st.sampled_from([AT_ONCE["success"], {"minDevices": 3}]),
            "soak": st.sampled_from(["0s", "1m", "1h"]),
            "deadline": st.sampled_from(["1m", "2h"]),
            "onEmpty": st.sampled_from(["Wait", "Skip"]),
            "failure": st.fixed_dictionaries({"action": st.sampled_from(["Pause", "Rollback"])}),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda ring: str(ring["name"]),
).map(_ordered)
APPROVALS = st.lists(
    st.builds(
        lambda ring, release, effect: {"ring": ring, "release": release, "effect": effect},
        st.sampled_from(["ring-0", "ring-1"]),
        VERSIONS,
        st.sampled_from(["Gate", "Override"]),
    ),
    max_size=4,
    unique_by=lambda approval: (approval["ring"], approval["release"]),
)
GOOD = {"members": 4, "active": 4, "succeeded": 4, "updated": 4, "updated_outcomes": 4}
COUNTS = st.sampled_from(
    [
        {},
        {"members": 4, "active": 4, "pending": 4},
        {"members": 2, "active": 2, "succeeded": 2, "updated": 2},
        GOOD,
        GOOD,
        {"members": 4, "active": 4, "failed": 3, "failed_outcomes": 3, "updated_outcomes": 1},
    ]
)
WINDOWS = st.sampled_from(
    [[], [{"schedule": "0 2 * * *", "duration": "4h", "timeZone": "Europe/Berlin"}]]
)
ENDED = ("Complete", "Skipped", "Failed")


class Rollouts(RuleBasedStateMachine):
    """People, the registry, the servers and accidents act on one rollout."""

    @initialize(rings=RINGS)
    def create(self, rings: list[dict[str, object]]) -> None:
        self.world = World(rings=rings)
        self.older_status = self.world.manifest["status"]
        self.highest_run = 0
        self.ended: dict[int, dict[str, str]] = {}
        self.tripped: set[int] = set()
        self.opened: dict[tuple[str, int], set[str]] = {}

    @rule(version=VERSIONS, content=st.sampled_from(["", "rebuilt"]))
    def tag(self, version: str, content: str) -> None:
        self.world.tag(version, content=content and f"{version} {content}")

    @rule(version=VERSIONS)
    def range_resolves(self, version: str) -> None:
        self.world.spec(artifact={"repository": REPOSITORY, "semver": "*"})
        self.world.resolves(found(version, by_range=True))

    @rule(state=st.sampled_from(["Active", "Paused", "Aborted"]))
    def state(self, state: str) -> None:
        self.world.spec(state=state)

    @rule(approvals=APPROVALS)
    def approve(self, approvals: list[dict[str, str]]) -> None:
        self._spec(self.world.manifest["spec"]["rings"], approvals)

    def _spec(self, rings: list[dict[str, Any]], approvals: list[dict[str, str]]) -> None:
        """An approval names a ring, else nothing of the spec can be read."""
        names = {ring["name"] for ring in rings}
        named = [approval for approval in approvals if approval["ring"] in names]
        self.world.spec(rings=rings, approvals=named)

    @rule(rings=RINGS)
    def rings(self, rings: list[dict[str, Any]]) -> None:
        self._spec(rings, self.world.manifest["spec"].get("approvals", []))

    @rule(token=st.sampled_from(["", "a", "b"]))
    def retry(self, token: str) -> None:
        self.world.spec(retryToken=token)

    @rule(windows=WINDOWS)
    def windows(self, windows: list[dict[str, str]]) -> None:
        self.world.spec(windows=windows)

    @rule(from_=VERSIONS, to=VERSIONS)
    def roll_back_by_hand(self, from_: str, to: str) -> None:
        self.world.spec(rollback={"from": from_, "to": to})

    @rule(counts=st.none() | st.dictionaries(st.sampled_from(NAMES), COUNTS))
    def devices_do(self, counts: dict[str, dict[str, int]] | None) -> None:
        self.world.counts = counts

    @rule(ring=st.sampled_from(NAMES))
    def servers_trip(self, ring: str) -> None:
        run = self.world.status.run
        self.world.trip = Trip(run=run, ring=ring, failed=3, updated=1, at=self.world.now)

    @rule(limit=st.integers(0, 3), downgrade=st.sampled_from(["Forbid", "Allow"]))
    def other_fields(self, limit: int, downgrade: str) -> None:
        self.world.spec(historyLimit=limit, downgrade=downgrade)

    @rule(lasting=st.booleans())
    def registry_fails(self, lasting: bool) -> None:
        self.world.fails(Reason.REGISTRY_UNREACHABLE, lasting=lasting)

    @rule()
    def operator_restarts(self) -> None:
        self.world.resolves(None)
        self.world.answer = Answer()

    @precondition(lambda self: self.world.published is not None)
    @rule(stored=st.booleans())
    def servers_answer(self, stored: bool) -> None:
        self.world.serve(stored=stored)

    @rule()
    def servers_are_lost(self) -> None:
        self.world.answer = Answer(self.world.answer.said, self.world.answer.at, "no route")

    @rule(seconds=st.sampled_from([1, 30, 3600, -90, -7200]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def look(self) -> None:
        self.older_status = self.world.manifest["status"]
        before = self.world.status
        self.world.look()
        self._check_what_opened(before)

    def _check_what_opened(self, before: RolloutStatus) -> None:
        """A ring opens only once those before it are complete, save by Override; none failing."""
        status, rollout = self.world.status, self.world.rollout
        release = status.release
        if release is None or status.run != before.run or status.phase == "Completed":
            return
        open_before = {ring.name for ring in before.rings if ring.opened_at is not None}
        known = self.opened.get((self.world.owner, status.run), set())
        reached = True
        for ring in status.rings[: len(rollout.spec.rings)]:
            new = ring.opened_at is not None and ring.name not in open_before | known
            overridden = any(
                approval.ring == ring.name
                and approval.release in (release.version, release.digest)
                and approval.effect == "Override"
                for approval in rollout.spec.approvals
            )
            if new:
                assert reached or overridden, f"{ring.name} opened too early"
                assert status.trip is None
            reached = reached and ring.phase in ("Complete", "Skipped")

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule()
    def operator_stops_between_its_writes(self) -> None:
        status = self.world.manifest["status"]
        self.world.look()
        self.world.manifest["status"] = status

    @rule()
    def policy_is_lost(self) -> None:
        self.world.published, self.world.owner = None, ""
        self.opened.clear()
        self._forget()

    @rule()
    def status_is_lost(self) -> None:
        self.world.manifest["status"] = {}
        self.opened.clear()
        self._forget()

    def _forget(self) -> None:
        self.ended.clear()
        self.tripped.clear()

    @rule()
    def recreated(self) -> None:
        metadata = self.world.manifest["metadata"]
        metadata |= {"uid": metadata["uid"] + "x", "generation": 1}
        self.world.manifest["status"] = {}
        self.world.resolves(None)
        self._forget()
        self.world.look()
        assert self.world.policy.releases == ()

    @invariant()
    def runs_only_grow_and_rings_stay_open(self) -> None:
        policy = self.world.published
        if policy is None:
            return
        assert policy.run >= self.highest_run or not self.opened
        self.highest_run = policy.run
        names = {ring.name for ring in policy.rings}
        open_ = {ring.name for ring in policy.rings if ring.open}
        known = self.opened.setdefault((self.world.owner, policy.run), set())
        assert known & names <= open_
        self.opened[self.world.owner, policy.run] = known | open_

    @invariant()
    def what_ended_stays_ended(self) -> None:
        """Within a run complete rings may only fail, and a trip stays."""
        status = self.world.status
        if status.phase in ("RollingBack", "RolledBack"):
            return
        known = self.ended.setdefault(status.run, {})
        for ring in status.rings:
            was = known.get(ring.name)
            assert was is None or ring.phase in (was, "Failed"), f"{was} became {ring.phase}"
            if ring.phase in ENDED:
                known[ring.name] = str(ring.phase)
        assert status.trip is not None or status.run not in self.tripped
        if status.trip is not None:
            self.tripped.add(status.run)

    @invariant()
    def nothing_is_offered_that_was_not_stored_or_is_not_whole(self) -> None:
        policy = self.world.published
        if policy is None or policy.target is None:
            return
        assert policy.run > 0
        assert not policy.rolling_back or policy.stable is not None
        assert not policy.rolling_back or not any(ring.open for ring in policy.rings)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_observation_has_an_outcome(data: st.DataObject) -> None:
    """Also what cannot belong together: the policy, status and answers of unrelated worlds."""
    worlds = []
    for _ in range(3):
        world = World(
            rings=data.draw(RINGS), state=data.draw(st.sampled_from(["Active", "Paused"]))
        )
        for version in data.draw(st.lists(VERSIONS, max_size=4)):
            world.release(version)
        worlds.append(world)
    first, second, third = worlds
    answer = third.answer
    if answer.said is not None:
        told = {"counts": data.draw(ANY_COUNTS), "trip": data.draw(ANY_TRIP)}
        answer = Answer(answer.said.model_copy(update=told), answer.at, answer.problem)
    observation = Observation(
        resolution=data.draw(st.sampled_from([second.resolution, Resolution()])),
        published=second.published,
        mine=data.draw(st.booleans()),
        damaged=data.draw(st.booleans()),
        answer=answer,
    )
    now = START + timedelta(seconds=data.draw(st.integers(-10_000, 10_000)))
    outcome = advance(first.rollout, observation, now)
    assert outcome.waiting


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_counts_have_an_outcome(data: st.DataObject) -> None:
    """Numbers that fit nothing: more failures than devices, rings that are not there."""
    world = World(rings=data.draw(RINGS))
    world.release("1.0.0")
    for _ in range(data.draw(st.integers(1, 4))):
        world.counts = data.draw(st.dictionaries(st.sampled_from(NAMES), ANY_RING))
        world.trip = data.draw(ANY_TRIP)
        world.passes(data.draw(st.integers(0, 4000)))
        world.serve()
        world.look()


ANY_RING = st.dictionaries(
    st.sampled_from(sorted(set(RingCounts.model_fields) - {"name", "codes"})),
    st.integers(0, 10**6),
)
ANY_COUNTS = st.none() | st.builds(
    lambda run, ring, number, late: RolloutCounts(
        revision="sha256:any",
        release=None,
        run=run,
        at=START + timedelta(seconds=late),
        rings=(RingCounts.model_validate({"name": ring} | number),),
    ),
    st.integers(0, 5),
    st.sampled_from(NAMES),
    ANY_RING,
    st.integers(-10_000, 10_000),
)
ANY_TRIP = st.none() | st.builds(
    lambda run, ring, failed, updated: Trip(
        run=run, ring=ring, failed=failed, updated=updated, at=START
    ),
    st.integers(0, 5),
    st.sampled_from(NAMES),
    st.integers(0, 10),
    st.integers(0, 10),
)
