"""A policy or a status that was lost, or of which only one was written."""

from collections.abc import Callable

import pytest

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


@pytest.mark.parametrize("make", [under_way, aborted, taken_back])
def test_a_lost_status_is_made_up_from_the_policy(make: Callable[[], World]) -> None:
    world = make()
    policy, phase = world.policy, world.status.phase
    world.manifest["status"] = {}
    world.settle()
    assert world.policy.revision == policy.revision
    assert (world.status.run, world.status.phase) == (policy.run, phase)


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
