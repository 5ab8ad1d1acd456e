"""The end of a run before it completes: abort, back to stable, and running it again."""

from collections.abc import Callable

import pytest

from otaflux_operator.engine import Answer
from otaflux_policy.contract import Release
from tests.operator.worlds import (
    AT_ONCE,
    REPOSITORY,
    UNJUDGED,
    World,
    aborted,
    found,
    taken_back,
    under_way,
)


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def test_an_abort_ends_the_run_at_once() -> None:
    world = under_way()
    world.spec(state="Aborted")
    world.resolves(None)
    world.answer = Answer(problem="no route")
    world.look()
    assert world.policy.state == "Aborted"
    assert world.status.phase == "Aborted"
    assert world.history()[0] == (2, "1.1.0", "Aborted")
    assert world.reason("Ready") == "False/Aborted"
    assert world.reason("Stalled") == "True/Aborted"


def test_active_again_does_not_revive_an_aborted_run() -> None:
    world = aborted()
    world.spec(state="Active")
    world.settle()
    assert (world.policy.state, world.status.phase) == ("Aborted", "Aborted")
    assert (world.status.run, world.policy.candidate) == (2, None)
    assert world.reason("Stalled") == "True/Aborted"
    assert world.reason("ArtifactResolved") == "True/Resolved"
    assert "retryToken" in world.status.message


def test_not_even_a_pause_hides_that_a_run_was_aborted() -> None:
    world = aborted()
    world.spec(state="Paused")
    world.settle()
    world.spec(state="Active")
    world.settle()
    assert (world.policy.state, world.status.phase) == ("Aborted", "Aborted")


def test_another_release_begins_a_new_run_after_an_abort() -> None:
    world = aborted()
    world.tag("1.2.0")
    world.settle()
    assert (world.policy.state, world.status.run) == ("Aborted", 2), "still Aborted by the spec"
    world.spec(state="Active")
    world.settle()
    assert (world.policy.state, world.status.run) == ("Active", 3)
    assert version(world.policy.target) == "1.2.0"
    assert world.history() == [(2, "1.1.0", "Aborted"), (1, "1.0.0", "Completed")]


def test_a_retry_token_runs_an_aborted_release_again() -> None:
    world = aborted()
    world.spec(state="Active", retryToken="again")
    world.settle()
    assert (world.policy.state, world.status.run) == ("Active", 3)
    assert version(world.policy.target) == "1.1.0"
    assert world.open_rings() == ["canary"]
    assert world.status.handled_retry_token == "again"
    world.settle()
    assert world.status.run == 3


def test_a_retry_waits_for_the_state_active() -> None:
    world = aborted()
    world.spec(retryToken="again")
    world.settle()
    assert world.status.run == 2
    world.spec(state="Active")
    world.settle()
    assert world.status.run == 3


def test_an_abort_after_completion_holds_and_ends_nothing() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(state="Aborted")
    world.settle()
    assert (world.policy.state, world.status.phase) == ("Aborted", "Aborted")
    assert world.reason("Ready") == "False/Aborted"
    assert "spec.state is Aborted" in world.status.message
    world.spec(state="Active")
    world.settle()
    assert (world.policy.state, world.status.phase) == ("Active", "Completed")
    assert world.history() == [(1, "1.0.0", "Completed")]


def test_an_abort_before_anything_was_released_only_holds() -> None:
    world = World(state="Aborted")
    world.release("1.0.0")
    assert (world.policy.state, world.policy.target) == ("Aborted", None)
    world.spec(state="Active")
    world.settle()
    assert world.status.phase == "Completed"


def test_a_tag_that_is_stable_again_takes_the_other_release_back_at_once() -> None:
    world = under_way()
    world.answer = Answer(problem="no route")
    world.tag("1.0.0")
    world.look()
    assert (world.policy.rolling_back, world.policy.run) == (True, 3)
    assert (version(world.policy.target), version(world.policy.stable)) == ("1.1.0", "1.0.0")
    assert world.open_rings() == []
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [("1.1.0", 2)]
    assert world.status.phase == "RollingBack"
    assert world.history()[0] == (2, "1.1.0", "RolledBack")


def test_it_is_rolled_back_once_servers_serve_that_and_nobody_has_it() -> None:
    world = taken_back()
    assert world.status.phase == "RolledBack"
    assert world.policy.rolling_back
    assert world.reason("Ready") == "True/RolledBack"
    assert world.reason("Completed") == "False/RolledBack"
    assert "1.1.0 was taken back" in world.status.message


def test_while_paused_it_is_not_rolled_back_yet() -> None:
    world = under_way()
    world.tag("1.0.0")
    world.look()
    world.spec(state="Paused")
    world.settle()
    assert (world.status.phase, world.policy.state) == ("RollingBack", "Paused")
    assert world.status.message.startswith("Paused")
    world.spec(state="Active")
    world.settle()
    assert world.status.phase == "RolledBack"


def test_a_revert_needs_no_approval_and_no_second_resolution() -> None:
    world = World(approvals=[])
    world.release("1.0.0")
    world.spec(rings=[{"name": "fleet", "gate": "Approval", **AT_ONCE}])
    world.release("1.1.0")
    world.tag("1.0.0")
    world.look()
    assert world.policy.rolling_back


def test_a_revert_after_an_abort_is_a_rollback() -> None:
    world = aborted()
    world.spec(state="Active")
    world.release("1.0.0")
    assert (world.status.phase, world.policy.state) == ("RolledBack", "Active")
    assert (2, "1.1.0", "Aborted") in world.history()
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [("1.1.0", 2)]


def test_nothing_is_taken_back_while_paused() -> None:
    world = under_way()
    world.spec(state="Paused")
    world.release("1.0.0")
    assert not world.policy.rolling_back
    world.spec(state="Active")
    world.settle()
    assert world.policy.rolling_back


def test_what_was_taken_back_is_no_candidate_until_the_token_changes() -> None:
    world = taken_back()
    world.release("1.1.0")
    assert world.policy.rolling_back
    assert world.policy.candidate is None
    assert world.reason("Stalled") == "True/ReleaseFailedBefore"
    assert "retryToken" in world.status.message
    world.spec(retryToken="again")
    world.settle()
    assert not world.policy.rolling_back
    assert (version(world.policy.target), world.status.run) == ("1.1.0", 4)


def test_it_is_no_candidate_either_after_another_release() -> None:
    world = taken_back()
    world.release("1.2.0")
    assert world.status.run == 4
    world.release("1.1.0")
    assert version(world.policy.target) == "1.2.0"
    assert world.reason("Stalled") == "True/ReleaseFailedBefore"
    world.spec(retryToken="again")
    world.settle()
    assert (version(world.policy.target), world.status.run) == ("1.1.0", 5)


def test_a_token_that_changes_while_all_is_well_is_used_up() -> None:
    world = under_way()
    world.spec(retryToken="early")
    world.settle()
    assert (world.status.run, world.status.handled_retry_token) == (2, "early")
    world.spec(state="Aborted")
    world.settle()
    world.spec(state="Active")
    world.settle()
    assert world.status.run == 2


def test_the_first_token_is_no_retry() -> None:
    world = World(retryToken="first")
    world.release("1.0.0")
    assert (world.status.run, world.status.handled_retry_token) == (1, "first")


def test_the_next_release_ends_the_rollback_and_knows_what_to_take_back() -> None:
    world = taken_back()
    world.release("1.2.0")
    assert not world.policy.rolling_back
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [
        ("1.1.0", 2),
        ("1.2.0", 4),
    ]


def test_what_is_to_be_taken_back_outlives_the_history() -> None:
    world = under_way()
    world.spec(historyLimit=0)
    for minor in (2, 3):
        world.release(f"1.{minor}.0")
    world.tag("1.0.0")
    world.look()
    assert [known.version for known in world.policy.rollback_from] == ["1.1.0", "1.2.0", "1.3.0"]


def test_an_abort_while_rolling_back_holds_everything() -> None:
    world = taken_back()
    world.spec(state="Aborted")
    world.settle()
    assert (world.policy.state, world.policy.rolling_back) == ("Aborted", False)
    assert world.status.phase == "Aborted"


def test_the_first_release_has_nothing_to_go_back_to() -> None:
    world = World(rings=UNJUDGED)
    world.release("1.0.0")
    world.release("0.9.0")
    assert version(world.policy.target) == "0.9.0", "an unfinished release may be replaced by any"
    assert not world.policy.rolling_back


@pytest.mark.parametrize("make", [aborted, taken_back])
@pytest.mark.parametrize("limit", [0, 1])
def test_what_may_not_run_again_outlives_the_history(make: Callable[[], World], limit: int) -> None:
    world = make()
    world.spec(state="Active", historyLimit=limit, rings=[{"name": "fleet", **AT_ONCE}])
    for minor in (2, 3):
        world.release(f"1.{minor}.0")
    assert (2, "1.1.0") in [entry[:2] for entry in world.history()]
    assert len(world.history()) == limit + 1
    world.spec(rings=UNJUDGED)
    # Content that failed is refused by what it is, whatever it is called.
    world.release("1.4.0", content="1.1.0")
    assert version(world.policy.target) == "1.3.0"
    assert world.reason("Stalled") == "True/ReleaseFailedBefore"
    world.spec(retryToken="again")
    world.settle()
    assert version(world.policy.target) == "1.4.0"


def test_the_history_is_bounded_whatever_may_not_run_again() -> None:
    world = World(rings=UNJUDGED, historyLimit=1)
    for minor in range(60):
        world.spec(state="Active")
        world.release(f"1.{minor}.0")
        world.spec(state="Aborted")
        world.settle()
    assert len(world.history()) == 50
    assert world.history()[0] == (60, "1.59.0", "Aborted")


def test_the_next_release_after_an_abort_is_not_stalled_before_it_is_known() -> None:
    world = aborted()
    world.spec(state="Active", artifact={"repository": REPOSITORY, "tag": "1.2.0"})
    world.resolves(None)
    world.look()
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.reason("Reconciling") == "True/Resolving"
    world.resolves(found("1.1.0"))
    world.settle()
    assert world.reason("Stalled") == "True/Aborted"
    world.resolves(None)
    world.look()
    assert world.reason("Stalled") == "True/Aborted", "a restart of the operator"


def test_credentials_follow_the_registry_of_an_artifact() -> None:
    world = World()
    world.release("1.0.0", credentials="old")
    world.tag("1.1.0", credentials="new")
    world.look()
    policy = world.policy
    assert policy.target is not None
    assert policy.candidate is not None
    assert policy.target.firmware.credentials == "new"
    other = "other.example.com/firmware/thermostat"
    world.spec(artifact={"repository": other, "tag": "1.2.0"})
    world.resolves(found("1.2.0", repository=other))
    world.look()
    policy = world.policy
    assert policy.target is not None
    assert policy.candidate is not None
    assert policy.candidate.firmware.credentials is None
    assert policy.target.firmware.credentials == "new", "the servers pull it from the old one"
    assert policy.target.firmware.repository == REPOSITORY
