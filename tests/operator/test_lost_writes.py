"""A policy or a status that was lost, or of which only one was written."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from otaflux_operator.engine import Answer
from otaflux_policy.contract import Release
from tests.operator.worlds import AT_ONCE, UNJUDGED, World, aborted, taken_back, under_way


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


@pytest.mark.parametrize("lost", ["status", "release"])
def test_a_stop_between_the_two_writes_loses_nothing(lost: str) -> None:
    """The policy is published, the status is not: the next look goes on from the policy."""
    world = under_way()
    before = world.manifest["status"]
    if lost == "release":
        world.tag("1.2.0")
        world.look()
        world.serve()
        before = world.manifest["status"]
        world.look()
    else:
        world.spec(approvals=[{"ring": "fleet", "release": "1.1.0", "effect": "Override"}])
        world.look()
        world.spec(approvals=[])
    policy = world.policy
    world.manifest["status"] = before
    world.look()
    assert world.policy.revision == policy.revision
    assert world.status.run == policy.run
    assert [ring.name for ring in policy.rings if ring.open] == world.open_rings()


def test_an_abort_that_was_published_is_not_lost_with_its_status() -> None:
    """The status write meets a conflict: somebody made the spec Active again meanwhile."""
    world = under_way()
    before = world.manifest["status"]
    world.spec(state="Aborted")
    world.look()
    world.manifest["status"] = before
    world.spec(state="Active")
    world.look()
    assert (world.policy.state, world.status.phase) == ("Aborted", "Aborted")
    assert world.history()[0] == (2, "1.1.0", "Aborted")


def test_a_completion_that_was_published_is_not_lost_with_its_status() -> None:
    """As above; what is released next has a stable release, and it is in the history."""
    world = under_way()
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.look()
    world.serve()
    before = world.manifest["status"]
    world.look()
    assert version(world.policy.stable) == "1.1.0"
    world.manifest["status"] = before
    world.spec(rings=UNJUDGED)
    world.tag("1.2.0")
    world.look()
    assert (version(world.policy.stable), world.history()[0]) == (
        "1.1.0",
        (2, "1.1.0", "Completed"),
    )
    assert world.history()[1:] == [(1, "1.0.0", "Completed")]
    world.settle()
    assert (version(world.policy.target), version(world.policy.stable)) == ("1.2.0", "1.1.0")


def test_a_release_that_was_published_is_not_taken_out_again_with_its_status() -> None:
    """Two status writes in a row met a conflict: not even the candidate is in the status."""
    world = under_way()
    before = world.manifest["status"]
    world.tag("1.2.0")
    world.look()
    world.serve()
    world.look()
    assert version(world.policy.target) == "1.2.0"
    policy = world.policy
    world.manifest["status"] = before
    world.look()
    assert world.policy.revision == policy.revision
    assert world.history()[0] == (2, "1.1.0", "Superseded")


def test_a_stop_while_going_back_loses_nothing() -> None:
    world = under_way()
    before = world.manifest["status"]
    world.tag("1.0.0")
    world.look()
    policy = world.policy
    world.manifest["status"] = before
    world.resolves(None)
    world.look()
    assert world.policy.revision == policy.revision
    assert (world.status.phase, world.status.run) == ("RollingBack", 3)


def failing() -> World:
    """1.1.0, as run 2, whose first ring is to be taken back when it fails."""
    world = under_way()
    world.spec(rings=[{"name": "canary", "percent": 10, "failure": {"action": "Rollback"}}])
    world.settle()
    world.counts = {"canary": {"members": 9, "updated_outcomes": 3, "failed_outcomes": 6}}
    world.serve()
    return world


@pytest.mark.parametrize("later", ["at once", "first heard of a moment later"])
def test_a_trip_that_was_published_is_not_lost_with_its_status(later: str) -> None:
    """Nor the numbers of it, nor the rollback that follows, as often as it happens."""
    world = failing()
    before = world.manifest["status"]
    world.look()
    assert world.policy.tripped
    world.manifest["status"] = before
    if later != "at once":
        answer, world.answer = world.answer, Answer()
        world.passes(1)
        world.look()
        assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
        world.answer = answer
    world.serve()
    world.look()
    trip = world.status.trip
    assert trip is not None
    assert (trip.ring, trip.failed, trip.updated) == ("canary", 6, 3)
    before = world.manifest["status"]
    world.passes(1)
    world.look()
    assert world.policy.rolling_back
    policy, history = world.policy, world.history()
    world.manifest["status"] = before
    world.answer = Answer()
    world.resolves(None)
    world.look()
    assert (world.policy.revision, world.history()) == (policy.revision, history)
    assert "6 of 9" in world.status.history[0].message
    rollback = world.status.rollback
    assert rollback is not None
    assert rollback.cause == "Failure"


def test_numbers_that_nobody_knows_delay_a_rollback_for_a_minute() -> None:
    world = failing()
    before = world.manifest["status"]
    world.look()
    world.manifest["status"] = before
    world.answer = Answer()
    outcome = world.look()
    assert outcome.wake_at == world.now + timedelta(seconds=60)
    world.passes(59)
    world.look()
    assert not world.policy.rolling_back
    world.passes(1)
    world.look()
    assert world.policy.rolling_back


def test_a_rollback_by_hand_that_was_published_is_not_lost_with_its_status() -> None:
    world = under_way()
    before = world.manifest["status"]
    world.spec(rollback={"from": "1.1.0", "to": "1.0.0"})
    world.look()
    policy = world.policy
    world.manifest["status"] = before
    world.resolves(None)
    world.answer = Answer()
    world.look()
    assert world.policy.revision == policy.revision
    rollback = world.status.rollback
    assert rollback is not None
    assert rollback.cause == "Hand"


def test_a_retry_of_a_completed_release_is_not_lost_with_its_status() -> None:
    world = World()
    world.release("1.0.0")
    world.counts = {"fleet": {"members": 9, "failed": 2}}
    world.settle()
    before = world.manifest["status"]
    world.spec(retryToken="again")
    world.look()
    assert world.policy.run == 2
    world.manifest["status"] = before
    world.look()
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (2, "again")
    assert world.history() == [(1, "1.0.0", "Completed")]


def test_a_status_from_a_backup_yields_to_the_policy() -> None:
    world = World()
    world.release("1.0.0")
    backup = world.manifest["status"]
    world.release("1.1.0")
    world.spec(rings=UNJUDGED)
    world.release("1.2.0")
    policy = world.policy
    world.manifest["status"] = backup
    world.resolves(None)
    world.look()
    assert world.policy.revision == policy.revision
    assert (world.status.run, version(world.policy.stable)) == (3, "1.1.0")


@pytest.mark.parametrize("make", [under_way, aborted, taken_back])
def test_a_lost_status_is_made_up_from_the_policy(make: Callable[[], World]) -> None:
    world = make()
    policy, phase = world.policy, world.status.phase
    world.manifest["status"] = {}
    world.settle()
    assert world.policy.revision == policy.revision
    assert (world.status.run, world.status.phase) == (policy.run, phase)


def test_a_lost_status_keeps_the_breaker_open() -> None:
    world = failing()
    world.spec(rings=[{"name": "canary", "percent": 10}])
    world.counts = {"canary": {"members": 9, "updated_outcomes": 3, "failed_outcomes": 6}}
    world.settle()
    assert world.policy.tripped
    policy = world.policy
    world.manifest["status"] = {}
    world.counts = None
    world.serve()
    world.settle()
    assert world.policy.revision == policy.revision
    trip = world.status.trip
    assert trip is not None
    assert trip.ring == "canary"


def test_a_lost_status_is_no_retry() -> None:
    world = under_way()
    world.spec(retryToken="used")
    world.settle()
    world.spec(state="Aborted")
    world.settle()
    world.spec(state="Active")
    world.manifest["status"] = {}
    world.settle()
    assert (world.status.phase, world.status.run) == ("Aborted", 2)


@pytest.mark.parametrize("make", [under_way, aborted, taken_back])
def test_a_lost_policy_is_made_up_from_the_status(make: Callable[[], World]) -> None:
    world = make()
    policy = world.policy
    world.published, world.owner = None, ""
    world.resolves(None)
    world.look()
    same = {"sequence": 0, "revision": ""}
    assert world.policy.model_dump() | same == policy.model_dump() | same


@pytest.mark.parametrize("make", [aborted, taken_back])
def test_what_ended_badly_is_known_where_the_status_was_lost(make: Callable[[], World]) -> None:
    world = make()
    world.spec(state="Active")
    world.settle()
    world.manifest["status"] = {}
    world.settle()
    assert [entry[:2] for entry in world.history()] == [(2, "1.1.0")]
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.release("1.2.0")
    assert world.status.phase == "Completed"
    world.spec(downgrade="Allow")
    world.release("1.1.0")
    assert world.reason("Stalled") == "True/ReleaseFailedBefore"
