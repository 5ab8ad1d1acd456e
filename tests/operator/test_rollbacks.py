"""The way back after a failure: what begins it, what devices get, how it is counted and ends."""

import pytest

from otaflux_policy.counts import Trip
from tests.operator.failing_worlds import (
    FAILING,
    RINGS,
    ROLLBACK,
    counts_back,
    failed,
    offered,
    since_stable,
    taken_back_by_failure,
    under_way,
    version,
)


def test_a_failure_stops_offers_first_and_takes_devices_back_then() -> None:
    world = failed("1.0.0")
    assert (world.policy.tripped, world.policy.rolling_back, world.policy.run) == (True, False, 2)
    world.passes(1)
    world.look()
    assert (world.policy.tripped, world.policy.rolling_back, world.policy.run) == (False, True, 3)
    assert offered(world) == ("2.0.0", "1.0.0")
    assert since_stable(world) == [("2.0.0", 2)]
    assert world.open_rings() == []
    assert (world.status.phase, world.status.trip) == ("RollingBack", None)
    rollback = world.status.rollback
    assert rollback is not None
    assert (rollback.cause, rollback.from_, rollback.to) == ("Failure", "2.0.0", "1.0.0")
    assert world.history()[0] == (2, "2.0.0", "RolledBack")
    message = world.status.history[0].message
    assert "canary" in message
    assert "6 of 10" in message


def test_a_trip_of_the_servers_is_a_failure_too() -> None:
    world = under_way("1.0.0")
    world.trip = Trip(run=2, ring="canary", failed=7, updated=2, at=world.now)
    world.counts = None
    world.settle()
    assert world.status.phase == "RollingBack"
    assert "7 of 9" in world.status.history[0].message


def test_a_trip_from_before_is_published_too_before_anything_is_taken_back() -> None:
    world = under_way("1.0.0")
    world.trip = Trip(run=2, ring="canary", failed=7, updated=2, at=world.now)
    world.counts = None
    world.passes(3600)
    world.serve()
    world.look()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)


def test_a_trip_of_another_run_is_none() -> None:
    world = under_way("1.0.0")
    world.serve()
    said = world.answer.said
    assert said is not None
    trip = Trip(run=1, ring="canary", failed=7, updated=2, at=world.now)
    world.answer = type(world.answer)(said.model_copy(update={"trip": trip}), world.now)
    world.look()
    assert (world.status.trip, world.policy.tripped) == (None, False)


def test_with_the_action_pause_nothing_is_taken_back_until_the_action_changes() -> None:
    pause = [ring | {"failure": ROLLBACK | {"action": "Pause"}} for ring in RINGS]
    world = failed("1.0.0", rings=pause)
    world.settle()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
    assert world.reason("Stalled").startswith("True/")
    world.spec(rings=RINGS)
    world.look()
    assert world.policy.rolling_back


def test_without_a_stable_release_a_failure_only_stops() -> None:
    world = failed()
    world.settle()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
    assert world.reason("Stalled") == "True/NoStableRelease"
    assert "retryToken" in world.status.message


def test_nothing_is_taken_back_while_paused_but_offers_stop() -> None:
    world = under_way("1.0.0")
    world.spec(state="Paused")
    world.counts = FAILING
    world.settle()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
    world.spec(state="Active")
    world.settle()
    assert world.policy.rolling_back


def test_a_rollback_ends_once_every_device_came_back() -> None:
    world = failed("1.0.0")
    counts_back(world, 4, 3)
    world.settle()
    assert world.status.phase == "RollingBack"
    rollback = world.status.rollback
    assert rollback is not None
    assert (rollback.devices, rollback.restored, rollback.unconfirmed) == (4, 3, None)
    counts_back(world, 4, 4)
    world.settle()
    assert world.status.phase == "RolledBack"
    rollback = world.status.rollback
    assert rollback is not None
    assert (rollback.devices, rollback.restored, rollback.unconfirmed) == (4, 4, 0)
    assert world.policy.rolling_back, "who comes back later gets the stable release too"


def test_with_nobody_to_take_back_it_ends_when_that_is_counted() -> None:
    world = failed("1.0.0")
    world.counts = None
    world.settle()
    assert world.status.phase == "RollingBack"
    world.counts = {}
    world.settle()
    assert world.status.phase == "RolledBack"


@pytest.mark.parametrize("stale", ["run", "revision", "at"])
def test_counts_of_something_else_end_no_rollback(stale: str) -> None:
    world = failed("1.0.0")
    world.passes(1)
    world.look()
    world.counts = {}
    world.serve()
    said = world.answer.said
    assert said is not None
    assert said.counts is not None
    before = {"run": 2, "revision": "sha256:other", "at": world.now}[stale]
    counts = said.counts.model_copy(update={stale: before})
    world.answer = type(world.answer)(said.model_copy(update={"counts": counts}), world.now)
    if stale == "at":
        world.now += type(world.now - world.now)(seconds=61)
        world.answer = type(world.answer)(world.answer.said, world.now)
    world.look()
    assert world.status.phase == "RollingBack"
    rollback = world.status.rollback
    assert rollback is not None
    assert rollback.devices is None


def test_after_device_timeout_the_rest_is_unconfirmed() -> None:
    world = failed("1.0.0", deviceTimeout="2h")
    counts_back(world, 5, 3)
    world.settle()
    rollback = world.status.rollback
    assert rollback is not None
    world.now = rollback.started_at
    world.passes(2 * 3600 - 1)
    world.look()
    assert world.status.phase == "RollingBack"
    world.passes(1)
    world.look()
    assert world.status.phase == "RolledBack"
    rollback = world.status.rollback
    assert rollback is not None
    assert (rollback.devices, rollback.restored, rollback.unconfirmed) == (5, 3, 2)
    assert world.policy.rolling_back


def test_no_rollback_ends_by_time_while_paused() -> None:
    world = failed("1.0.0", deviceTimeout="2h")
    counts_back(world, 5, 3)
    world.settle()
    world.spec(state="Paused")
    world.passes(3 * 3600)
    world.settle()
    assert world.status.phase == "RollingBack"
    world.spec(state="Active")
    world.settle()
    assert world.status.phase == "RolledBack"


def test_it_wakes_for_the_end_of_the_rollback() -> None:
    world = failed("1.0.0", deviceTimeout="1m")
    counts_back(world, 5, 3)
    world.settle()
    rollback = world.status.rollback
    assert rollback is not None
    wake_at = world.look().wake_at
    assert wake_at is not None
    assert (wake_at - rollback.started_at).total_seconds() <= 60


def test_after_it_a_person_is_needed_until_the_artifact_or_the_token_changes() -> None:
    world = taken_back_by_failure()
    assert world.reason("Stalled") == "True/RolledBack"
    for word in ("2.0.0", "1.0.0", "retryToken"):
        assert word in world.condition("Stalled").message
    world.resolves(None)
    world.look()
    assert world.reason("Stalled") == "True/RolledBack", "a restart of the operator"
    world.release("1.0.0")
    assert world.reason("Stalled") == "False/NotStalled", "the artifact names what devices have"
    assert world.status.phase == "RolledBack"
    world.release("2.0.0")
    assert world.reason("Stalled") == "True/RolledBack"
    assert (world.policy.candidate, world.status.run) == (None, 3)


def test_the_next_release_ends_it() -> None:
    world = taken_back_by_failure()
    world.counts = {}
    world.release("2.0.1")
    assert (world.status.rollback, world.policy.rolling_back) == (None, False)
    assert world.reason("Stalled") == "False/NotStalled"
    assert since_stable(world) == [("2.0.0", 2), ("2.0.1", 4)]


def test_the_token_runs_it_again_without_its_trip() -> None:
    world = taken_back_by_failure()
    world.counts = {}
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.policy.tripped, world.policy.rolling_back) == (4, False, False)
    assert (version(world.policy.target), world.open_rings()) == ("2.0.0", ["canary"])
    assert world.status.rollback is None


def test_a_revert_of_a_failed_release_needs_no_person() -> None:
    pause = [ring | {"failure": ROLLBACK | {"action": "Pause"}} for ring in RINGS]
    world = failed("1.0.0", rings=pause)
    world.settle()
    world.counts = {}
    world.release("1.0.0")
    assert (world.status.phase, world.status.trip) == ("RolledBack", None)
    rollback = world.status.rollback
    assert rollback is not None
    assert rollback.cause == "Revert"
    assert world.reason("Stalled") == "False/NotStalled"


def test_an_abort_ends_a_rollback() -> None:
    world = failed("1.0.0")
    counts_back(world, 5, 3)
    world.settle()
    world.spec(state="Aborted")
    world.look()
    assert (world.policy.state, world.status.phase) == ("Aborted", "Aborted")


def test_a_rollback_of_which_the_status_was_lost_goes_on() -> None:
    world = failed("1.0.0")
    counts_back(world, 5, 3)
    world.settle()
    policy = world.policy
    world.manifest["status"] = {}
    world.settle()
    assert world.policy == policy
    assert (world.status.phase, world.reason("Stalled")) == ("RollingBack", "False/NotStalled")
    rollback = world.status.rollback
    assert rollback is not None
    assert (rollback.cause, rollback.restored) == ("Failure", 3)
