"""When a ring has failed, and that it stays so until the run ends; the way back it may lead to."""

from datetime import timedelta
from typing import Any

import pytest

from otaflux_operator.engine import Answer
from otaflux_policy.counts import Trip
from tests.operator.worlds import AT_ONCE, World

BAD = {
    "members": 10,
    "active": 10,
    "updated": 7,
    "succeeded": 7,
    "failed": 2,
    "timed_out": 1,
    "updated_outcomes": 7,
    "failed_outcomes": 3,
}


def running(*, stable: bool = True, **canary: Any) -> World:
    """1.1.0 is in its first ring, after 1.0.0 where there is a stable release."""
    world = World()
    if stable:
        world.release("1.0.0")
    rings = [{"name": "canary", "percent": 10, **canary}, {"name": "fleet", **AT_ONCE}]
    world.counts = {"canary": {"members": 10, "active": 10}}
    world.spec(rings=rings)
    world.release("1.1.0")
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}
    return world


def failing(*, counts: dict[str, int] | None = None, **options: Any) -> World:
    world = running(**options)
    world.counts = {"canary": counts or BAD}
    world.settle()
    return world


@pytest.mark.parametrize(
    ("failed", "updated", "percent", "sample", "fails"),
    [
        (1, 9, 20, 3, False),
        (2, 8, 20, 3, False),  # 20 % is not more than 20 %
        (3, 9, 20, 3, True),
        (1, 1, 20, 3, False),  # two outcomes are no sample of three
        (1, 2, 20, 3, True),
        (1, 999, 0, 1, True),
        (0, 999, 0, 1, False),
        (9, 0, 100, 1, False),
    ],
)
def test_a_ring_fails_by_its_share_of_outcomes(
    failed: int, updated: int, percent: int, sample: int, fails: bool
) -> None:
    counts = {"members": 1000, "active": 1000, "failed_outcomes": failed}
    world = failing(
        counts=counts | {"updated_outcomes": updated},
        failure={"maxPercent": percent, "minSample": sample},
    )
    assert world.rings()["canary"] == ("Failed" if fails else "Open")
    assert world.policy.tripped is fails
    assert world.status.phase == ("Stalled" if fails else "Progressing")


def test_failure_is_looked_at_before_success() -> None:
    """7 of 10 would do; 3 of 10 failures are too many."""
    world = failing(success={"minUpdatedPercent": 70})
    assert world.rings() == {"canary": "Failed", "fleet": "Pending"}


def test_a_failed_ring_stalls_the_run_and_says_what_to_do() -> None:
    world = running()
    world.counts = {"canary": BAD}
    world.serve()
    said = world.answer.said
    assert said is not None
    assert said.counts is not None
    canary = said.counts.ring("canary").model_copy(update={"codes": {"RevertedAfterInstall": 2}})
    counts = said.counts.model_copy(update={"rings": (canary, said.counts.ring("fleet"))})
    world.answer = Answer(said.model_copy(update={"counts": counts}), world.now)
    world.look()
    message = world.status.message
    assert "1.1.0 is stopped. Ring canary failed: 3 of 10 outcomes (30 %; 20 % may fail)" in message
    assert "RevertedAfterInstall 2, TimedOut 1" in message
    assert "let the artifact name 1.0.0 again" in message
    assert "spec.retryToken" in message
    world.settle()
    assert world.reason("Stalled") == "True/RingFailed"
    assert world.reason("Ready") == "False/RingFailed"
    assert world.reason("Reconciling") == "False/Settled"
    assert world.reason("Healthy") == "False/RingFailed"
    assert world.reason("Completed") == "False/RingFailed"
    trip = world.status.trip
    assert trip is not None
    assert (trip.ring, trip.failed, trip.updated) == ("canary", 3, 7)


def test_a_trip_stays_when_devices_heal() -> None:
    world = failing()
    world.counts = {"canary": {"members": 10, "active": 10, "succeeded": 10, "updated": 10}}
    world.passes(60)
    world.settle()
    assert world.rings()["canary"] == "Failed"
    assert world.policy.tripped
    assert world.status.trip is not None
    assert (world.status.trip.failed, world.status.trip.updated) == (3, 7)


def test_the_servers_trip_is_taken_over_whatever_they_count() -> None:
    world = running()
    at = world.now + timedelta(microseconds=500)
    world.trip = Trip(run=2, ring="canary", failed=4, updated=1, at=at)
    world.counts = None
    world.settle()
    trip = world.status.trip
    assert trip is not None
    assert (trip.failed, trip.updated, trip.at) == (4, 1, at.replace(microsecond=0))
    assert world.rings()["canary"] == "Failed"
    assert world.policy.tripped


def test_a_trip_of_another_run_is_none_of_this() -> None:
    world = running()
    world.trip = Trip(run=1, ring="canary", failed=4, updated=1, at=world.now)
    world.serve()
    said = world.answer.said
    assert said is not None
    world.answer = Answer(said.model_copy(update={"trip": world.trip}), world.now)
    world.look()
    assert world.status.trip is None


@pytest.mark.parametrize("other", [{"revision": "sha256:x"}, {"run": 1}])
def test_counts_that_do_not_conclude_trip_nothing(other: dict[str, Any]) -> None:
    world = running()
    world.counts = {"canary": BAD}
    world.serve()
    said = world.answer.said
    assert said is not None
    assert said.counts is not None
    counts = said.counts.model_copy(update=other)
    world.answer = Answer(said.model_copy(update={"counts": counts}), world.now)
    world.look()
    assert world.status.trip is None


def test_nothing_opens_after_a_failure_not_even_by_override() -> None:
    world = failing()
    world.spec(approvals=[{"ring": "fleet", "release": "1.1.0", "effect": "Override"}])
    world.settle()
    assert world.open_rings() == ["canary"]


def test_a_ring_that_is_complete_fails_too_until_the_run_ends() -> None:
    world = World()
    world.release("1.0.0")
    rings = [{"name": "canary", "percent": 10}, {"name": "fleet"}]
    good = {"members": 4, "active": 4, "succeeded": 4, "updated": 4, "updated_outcomes": 4}
    world.counts = {"canary": good, "fleet": {"members": 40, "active": 40}}
    world.spec(rings=rings)
    world.release("1.1.0")
    assert world.rings() == {"canary": "Complete", "fleet": "Open"}
    world.counts["canary"] = good | {"updated_outcomes": 1, "failed_outcomes": 3}
    world.settle()
    assert world.rings() == {"canary": "Failed", "fleet": "Open"}
    assert world.reason("Stalled") == "True/RingFailed"


def test_a_completed_run_fails_no_more() -> None:
    world = World()
    world.release("1.0.0")
    world.counts = {"canary": BAD, "fleet": BAD}
    world.settle()
    assert (world.status.phase, world.status.trip) == ("Completed", None)


def test_a_failure_is_noted_while_paused() -> None:
    world = running()
    world.spec(state="Paused")
    world.counts = {"canary": BAD}
    world.settle()
    assert world.rings()["canary"] == "Failed"
    assert world.status.phase == "Paused"
    assert world.reason("Stalled") == "True/RingFailed"
    assert world.status.message.startswith("Paused: 1.1.0 is stopped.")
    world.spec(state="Active")
    world.settle()
    assert world.status.phase == "Stalled"


def test_another_release_ends_a_failed_run() -> None:
    world = failing()
    world.counts = {}
    world.tag("1.2.0")
    world.look()
    assert world.reason("Reconciling") == "True/StoringArtifact"
    assert (world.reason("Stalled"), world.status.phase) == ("False/NotStalled", "Stalled")
    world.settle()
    assert (world.status.run, world.status.trip, world.policy.tripped) == (3, None, False)
    assert world.rings()["canary"] == "Open"
    assert world.history()[0] == (2, "1.1.0", "Superseded")


def test_a_retry_token_runs_a_failed_release_again() -> None:
    world = failing()
    world.counts = {}
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.status.trip, world.policy.tripped) == (3, None, False)
    assert world.policy.target is not None
    assert world.policy.target.version == "1.1.0"
    assert world.open_rings() == ["canary"]


def test_an_artifact_that_goes_back_ends_a_failed_run() -> None:
    world = failing()
    world.release("1.0.0")
    assert world.policy.rolling_back
    assert world.status.trip is None


def test_a_failure_with_the_action_rollback_takes_the_release_back() -> None:
    world = failing(failure={"action": "Rollback"})
    assert world.policy.rolling_back
    assert world.status.phase in ("RollingBack", "RolledBack")
    assert world.status.rollback is not None
    assert world.status.rollback.cause == "Failure"
    assert world.history()[0] == (2, "1.1.0", "RolledBack")
    assert world.reason("Healthy").startswith("False/")


def test_a_trip_is_published_before_the_rollback() -> None:
    """So that whoever stops between the two still knows of it."""
    world = running(failure={"action": "Rollback"})
    world.counts = {"canary": BAD}
    world.serve()
    world.look()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
    assert world.reason("Stalled") == "False/NotStalled"
    assert "about to be taken back" in world.status.message
    world.passes(1)
    world.look()
    assert world.policy.rolling_back


def test_a_rollback_waits_while_paused() -> None:
    world = running(failure={"action": "Rollback"})
    world.spec(state="Paused")
    world.counts = {"canary": BAD}
    world.settle()
    assert (world.policy.tripped, world.policy.rolling_back) == (True, False)
    world.spec(state="Active")
    world.settle()
    assert world.policy.rolling_back


def test_without_a_stable_release_it_acts_as_pause() -> None:
    world = failing(stable=False, failure={"action": "Rollback"})
    assert not world.policy.rolling_back
    assert world.policy.tripped
    assert world.reason("Stalled") == "True/NoStableRelease"
    assert world.status.phase == "Stalled"
    assert world.status.message.count("release another version") == 1
    assert "3 of 10 outcomes" in world.status.message


def test_the_action_may_be_changed_after_the_failure() -> None:
    world = failing()
    assert not world.policy.rolling_back
    rings = world.manifest["spec"]["rings"]
    world.spec(rings=[rings[0] | {"failure": {"action": "Rollback"}}, rings[1]])
    world.settle()
    assert world.policy.rolling_back


def test_a_deleted_ring_takes_its_failure_nowhere() -> None:
    world = failing()
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.settle()
    assert world.policy.tripped
    assert world.open_rings() == []
    assert world.reason("Stalled") == "True/RingFailed"


@pytest.mark.parametrize("action", ["Pause", "Rollback"])
def test_the_next_release_needs_nobody_while_it_is_stored(action: str) -> None:
    world = World(rings=[{"name": "fleet", "failure": {"action": action, "minSample": 1}}])
    world.release("1.0.0")
    world.counts = {"fleet": {"members": 1, "active": 1, "failed": 1, "failed_outcomes": 1}}
    world.settle()
    assert world.reason("Stalled").startswith("True/")
    world.tag("1.0.1")
    world.look()
    world.serve(stored=False)
    world.look()
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.reason("Reconciling") == "True/StoringArtifact"
