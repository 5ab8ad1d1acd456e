"""`spec.rollback`: back to a release that a person names."""

import pytest

from tests.operator.failing_worlds import (
    FAILING,
    RINGS,
    offered,
    since_stable,
    taken_back_by_failure,
    under_way,
    version,
)
from tests.operator.worlds import AT_ONCE, REPOSITORY, World, digest, found


def test_by_hand_back_to_the_stable_release_at_once() -> None:
    world = under_way("1.0.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"})
    world.look()
    assert (world.policy.rolling_back, world.policy.run) == (True, 3)
    assert offered(world) == ("2.0.0", "1.0.0")
    rollback = world.status.rollback
    assert rollback is not None
    assert rollback.cause == "Hand"
    assert world.history()[0] == (2, "2.0.0", "RolledBack")
    world.settle()
    assert world.reason("Stalled") == "True/RolledBack"
    assert "spec.rollback" in world.condition("Stalled").message


@pytest.mark.parametrize("reference", ["version", "digest"])
def test_by_hand_to_an_older_release_once_it_is_stored(reference: str) -> None:
    world = under_way("1.0.0", "1.1.0")
    hand = {"from": "2.0.0", "to": "1.0.0"}
    if reference == "digest":
        hand = {name: digest(known) for name, known in hand.items()}
    world.spec(rollback=hand)
    world.look()
    assert (version(world.policy.candidate), world.policy.rolling_back) == ("1.0.0", False)
    world.serve(stored=False)
    world.look()
    assert not world.policy.rolling_back
    world.serve()
    world.look()
    assert offered(world) == ("2.0.0", "1.0.0")
    assert (world.policy.rolling_back, world.policy.candidate) == (True, None)
    assert since_stable(world) == [("1.1.0", 2), ("2.0.0", 3)]
    world.settle()
    assert (world.status.phase, world.status.run) == ("RolledBack", 4)


def test_by_hand_from_a_release_that_completed() -> None:
    world = World()
    for known in ("1.0.0", "1.1.0"):
        world.release(known)
    world.spec(rollback={"from": "1.1.0", "to": "1.0.0"})
    world.settle()
    assert offered(world) == ("1.1.0", "1.0.0")
    assert since_stable(world) == [("1.1.0", 2)]
    assert world.status.phase == "RolledBack"
    assert world.history() == [
        (3, "1.1.0", "RolledBack"),
        (2, "1.1.0", "Completed"),
        (1, "1.0.0", "Completed"),
    ]
    taken_back, completed, _ = world.status.history
    assert taken_back.started_at == taken_back.finished_at != completed.finished_at
    world.settle()
    assert world.status.run == 3
    world.spec(rings=RINGS, rollback=None)
    world.release("1.2.0")
    assert since_stable(world) == [("1.1.0", 2), ("1.2.0", 4)]
    world.release("1.1.0")
    assert world.reason("Stalled") == "True/ReleaseFailedBefore"


def test_by_hand_after_a_failure_takes_everybody_further_back() -> None:
    world = under_way("1.0.0", "1.1.0")
    world.counts = FAILING
    world.serve()
    world.look()
    world.counts = {}
    world.settle()
    assert offered(world) == ("2.0.0", "1.1.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"})
    world.settle()
    assert offered(world) == ("2.0.0", "1.0.0")
    assert since_stable(world) == [("1.1.0", 2), ("2.0.0", 3)]
    assert [entry[:2] for entry in world.history()].count((3, "2.0.0")) == 1


def test_by_hand_is_ignored_once_the_release_is_another_one() -> None:
    world = under_way("1.0.0")
    world.spec(rollback={"from": "1.9.0", "to": "nonsense"})
    world.settle()
    assert (world.policy.rolling_back, world.reason("Stalled")) == (False, "False/NotStalled")


def test_removing_it_afterwards_changes_nothing() -> None:
    world = under_way("1.0.0", "1.1.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"})
    world.settle()
    policy, history = world.policy, world.history()
    world.spec(rollback=None)
    world.settle()
    assert (world.policy.revision, world.history()) == (policy.revision, history)
    assert world.reason("Stalled") == "True/RolledBack"


@pytest.mark.parametrize("to", ["0.1.0", "2.0.0"])
def test_an_unknown_target_is_refused_and_says_what_it_could_be(to: str) -> None:
    world = under_way("1.0.0", "1.1.0")
    world.spec(rollback={"from": "2.0.0", "to": to})
    world.settle()
    assert not world.policy.rolling_back
    assert world.reason("Stalled") == "True/RollbackTargetUnknown"
    assert "1.1.0, 1.0.0" in world.status.message


def test_what_ended_badly_is_no_target() -> None:
    world = taken_back_by_failure()
    world.counts = {}
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.release("2.0.1")
    world.spec(rollback={"from": "2.0.1", "to": "2.0.0"})
    world.settle()
    assert world.reason("Stalled") == "True/RollbackTargetUnknown"
    assert "one of 1.0.0." in world.status.message


def test_what_is_fetched_to_go_back_to_is_never_promoted() -> None:
    """Not even where the artifact names it too, nor after spec.rollback is gone."""
    world = under_way("1.0.0", "1.1.0")
    hand = {"from": "2.0.0", "to": "1.0.0"}
    world.spec(rollback=hand, state="Paused", artifact={"repository": REPOSITORY, "tag": "1.0.0"})
    world.resolves(found("1.0.0"))
    world.settle()
    world.spec(state="Active")
    world.look()
    assert version(world.policy.candidate) == "1.0.0"
    world.serve()
    world.spec(rollback=None)
    world.look()
    assert (version(world.policy.target), world.policy.candidate) == ("2.0.0", None)
    assert world.reason("Stalled") == "True/DowngradeForbidden"


def test_by_hand_waits_for_the_state_active() -> None:
    world = under_way("1.0.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"}, state="Paused")
    world.settle()
    assert not world.policy.rolling_back
    world.spec(state="Active")
    world.settle()
    assert world.policy.rolling_back


def test_a_token_does_not_run_again_what_a_hand_takes_back() -> None:
    world = under_way("1.0.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"})
    world.settle()
    world.spec(retryToken="again")
    world.settle()
    assert (world.policy.rolling_back, world.status.run) == (True, 3)
    world.spec(rollback=None)
    world.settle()
    assert (world.policy.rolling_back, world.status.run) == (False, 4)
    assert version(world.policy.target) == "2.0.0"


def test_a_release_may_be_named_while_a_hand_takes_the_one_before_back() -> None:
    world = under_way("1.0.0", "1.1.0")
    world.spec(rollback={"from": "2.0.0", "to": "1.0.0"})
    world.look()
    world.tag("2.0.1")
    world.settle()
    assert offered(world) == ("2.0.1", "1.0.0")
    assert (world.policy.rolling_back, world.status.run) == (False, 5)
    assert world.history()[0] == (3, "2.0.0", "RolledBack")
