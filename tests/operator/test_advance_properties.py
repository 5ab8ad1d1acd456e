"""What holds of `advance` whatever happens, in whatever order.

`World.look` checks of each outcome that it is whole, names what it waits for, and that `advance`
on its own outcome changes nothing.
"""

from datetime import timedelta

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
from tests.operator.worlds import AT_ONCE, REPOSITORY, START, World, found

VERSIONS = st.sampled_from(["0.9.0", "1.0.0", "1.1.0", "1.2.0", "nightly"])
RINGS = st.lists(
    st.fixed_dictionaries(
        {"gate": st.sampled_from(["Automatic", "Approval"])},
        optional={"success": st.just(AT_ONCE["success"]), "soak": st.sampled_from(["0s", "1h"])},
    ),
    min_size=1,
    max_size=3,
).map(
    lambda rings: [
        {"name": f"ring-{index}", "percent": 10 * (index + 1)} | ring
        for index, ring in enumerate(rings)
    ]
)
APPROVALS = st.lists(
    st.builds(
        lambda ring, release, effect: {"ring": ring, "release": release, "effect": effect},
        st.just("ring-0"),
        VERSIONS,
        st.sampled_from(["Gate", "Override"]),
    ),
    max_size=4,
    unique_by=lambda approval: approval["release"],
)


class Rollouts(RuleBasedStateMachine):
    """People, the registry, the servers and accidents act on one rollout."""

    @initialize(rings=RINGS)
    def create(self, rings: list[dict[str, object]]) -> None:
        self.world = World(rings=rings)
        self.older_status = self.world.manifest["status"]
        self.highest_run = 0
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
        self.world.spec(approvals=approvals)

    @rule(rings=RINGS)
    def rings(self, rings: list[dict[str, object]]) -> None:
        self.world.spec(rings=rings)

    @rule(token=st.sampled_from(["", "a", "b"]))
    def retry(self, token: str) -> None:
        self.world.spec(retryToken=token)

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

    @rule(seconds=st.sampled_from([1, 30, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def look(self) -> None:
        self.older_status = self.world.manifest["status"]
        self.world.look()

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

    @rule()
    def status_is_lost(self) -> None:
        self.world.manifest["status"] = {}
        self.opened.clear()

    @rule()
    def recreated(self) -> None:
        metadata = self.world.manifest["metadata"]
        metadata |= {"uid": metadata["uid"] + "x", "generation": 1}
        self.world.manifest["status"] = {}
        self.world.resolves(None)
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
    observation = Observation(
        resolution=data.draw(st.sampled_from([second.resolution, Resolution()])),
        published=second.published,
        mine=data.draw(st.booleans()),
        damaged=data.draw(st.booleans()),
        answer=third.answer,
    )
    now = START + timedelta(seconds=data.draw(st.integers(0, 10_000)))
    outcome = advance(first.rollout, observation, now)
    assert outcome.waiting
