"""`spec.retryToken`: what failed runs again, from the first ring, and nothing else does."""

from collections.abc import Callable
from typing import Any

import pytest

from otaflux_policy.contract import Release
from tests.operator.worlds import AT_ONCE, World, aborted, taken_back, under_way

RULE: dict[str, Any] = {"failure": {"maxPercent": 20, "minSample": 3, "action": "Pause"}}
FAILING = {"canary": {"members": 10, "active": 10, "updated_outcomes": 4, "failed_outcomes": 6}}


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def tripped() -> World:
    """2: 1.1.0 failed in its first ring, which stopped it."""
    world = under_way()
    world.spec(rings=[{"name": "canary", "percent": 10, **RULE}, {"name": "fleet"}])
    world.settle()
    world.counts = FAILING
    world.settle()
    world.counts = {}
    assert (world.status.run, world.policy.tripped) == (2, True)
    return world


def completed(*, failed: int = 0, timed_out: int = 0) -> World:
    """1.0.0 completed, and so many devices failed in it."""
    world = World()
    world.release("1.0.0")
    counts = {"members": 10, "active": 10, "failed": failed, "timed_out": timed_out}
    world.counts = {"fleet": counts}
    world.settle()
    assert (world.status.run, world.status.phase) == (1, "Completed")
    return world


@pytest.mark.parametrize("make", [tripped, aborted, taken_back])
def test_a_release_that_failed_runs_again_from_the_first_ring(make: Callable[[], World]) -> None:
    world = make()
    world.release("1.1.0")
    run = world.status.run
    world.spec(state="Active", retryToken="again")
    world.settle()
    assert (world.status.run, world.policy.run) == (run + 1, run + 1)
    assert version(world.policy.target) == "1.1.0"
    assert (world.policy.state, world.policy.rolling_back) == ("Active", False)
    assert (world.policy.tripped, world.status.trip) == (False, None)
    assert (world.status.rollback, world.status.phase) == (None, "Progressing")
    assert world.open_rings() == ["canary"]
    assert world.status.handled_retry_token == "again"
    assert world.reason("Stalled") == "False/NotStalled"
    world.settle()
    assert world.status.run == run + 1, "once"


def test_a_trip_lasts_until_the_token_changes() -> None:
    world = tripped()
    for _ in range(3):
        world.passes(3600)
        world.settle()
    assert (world.status.run, world.policy.tripped) == (2, True)
    assert world.reason("Stalled").startswith("True/")


def test_the_run_that_was_tried_again_is_in_the_history() -> None:
    world = tripped()
    world.spec(retryToken="again")
    world.settle()
    assert world.history()[0] == (2, "1.1.0", "Superseded")
    assert "retryToken" in world.status.history[0].message
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [
        ("1.1.0", 2),
        ("1.1.0", 3),
    ]


def test_another_release_ends_a_trip() -> None:
    world = tripped()
    world.release("1.2.0")
    assert (version(world.policy.target), world.policy.tripped) == ("1.2.0", False)
    assert (world.status.trip, world.open_rings()) == (None, ["canary"])


def test_an_approval_does_not_end_a_trip() -> None:
    world = tripped()
    world.spec(approvals=[{"ring": "fleet", "release": "1.1.0", "effect": "Override"}])
    world.settle()
    assert (world.status.run, world.policy.tripped) == (2, True)


@pytest.mark.parametrize(("failed", "timed_out"), [(2, 0), (0, 1)])
def test_devices_that_failed_in_a_completed_run_get_it_again(failed: int, timed_out: int) -> None:
    world = completed(failed=failed, timed_out=timed_out)
    world.spec(retryToken="again")
    world.look()
    assert (world.status.run, world.policy.run) == (2, 2)
    assert (version(world.policy.target), version(world.policy.stable)) == ("1.0.0", "1.0.0")
    assert world.open_rings() == ["canary", "fleet"]
    assert (world.status.phase, world.history()) == ("Completed", [(1, "1.0.0", "Completed")])
    world.counts = {}
    world.settle()
    assert world.status.run == 2


def test_where_nothing_failed_a_token_does_nothing() -> None:
    world = completed()
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (1, "again")


def test_whether_something_failed_is_not_guessed() -> None:
    world = completed(failed=1)
    world.counts = None
    world.serve()
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (1, "")
    world.counts = {"fleet": {"members": 10, "failed": 1}}
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (2, "again")


def test_a_paused_completed_release_is_tried_again_once_active() -> None:
    world = completed(failed=1)
    world.spec(retryToken="again", state="Paused")
    world.settle()
    assert world.status.run == 1
    world.spec(state="Active")
    world.settle()
    assert world.status.run == 2


def test_devices_that_failed_in_a_run_under_way_get_it_again() -> None:
    """Too few for the breaker, enough to keep the ring from its success."""
    world = under_way()
    world.counts = {"canary": {"members": 10, "active": 10, "updated": 8, "failed": 1}}
    world.settle()
    world.spec(retryToken="again")
    world.look()
    assert version(world.policy.candidate) == "1.1.0"
    world.serve(stored=False)
    world.counts = None
    world.look()
    assert (world.status.run, version(world.policy.candidate)) == (2, "1.1.0")
    world.settle()
    assert (world.status.run, world.open_rings()) == (3, ["canary"])
    assert world.history()[0] == (2, "1.1.0", "Superseded")
    world.counts = {"canary": {"members": 10, "active": 10, "updated": 8, "failed": 1}}
    world.settle()
    assert world.status.run == 3, "once"


def test_whether_something_failed_in_a_run_under_way_is_not_guessed() -> None:
    world = under_way()
    world.counts = None
    world.serve()
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (2, "")
    world.counts = {"canary": {"members": 10, "active": 10, "timed_out": 1}}
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (3, "again")


def test_a_run_that_goes_well_is_not_begun_again() -> None:
    world = under_way()
    world.spec(retryToken="again")
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (2, "again")


def test_no_run_is_numbered_twice_whatever_was_lost() -> None:
    world = tripped()
    world.known_run = 9
    world.settle()
    world.spec(retryToken="again")
    world.settle()
    assert world.status.run == 10
    # The object is restored without status, its policy went with the one before.
    world.manifest["metadata"] |= {"uid": "uid-2"}
    world.manifest["status"] = {}
    world.published, world.owner = None, ""
    world.known_run = 10
    world.settle()
    assert world.status.run == 11


def test_a_release_after_a_retry_of_a_completed_one_can_be_taken_back() -> None:
    world = completed(failed=1)
    world.spec(retryToken="again")
    world.settle()
    world.counts = {}
    world.spec(rings=[{"name": "canary", "percent": 10}, {"name": "fleet", **AT_ONCE}])
    world.release("1.1.0")
    world.release("1.0.0")
    assert world.policy.rolling_back
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [("1.1.0", 3)]
