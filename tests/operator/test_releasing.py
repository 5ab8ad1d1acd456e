"""From an artifact to a release: what the engine publishes before, while and after."""

import pytest

from otaflux_operator.engine import Answer, Waiting
from otaflux_operator.reasons import Reason
from otaflux_policy.contract import Release
from tests.operator.worlds import AT_ONCE, REPOSITORY, World, found


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def test_a_new_rollout_is_published_before_anything_is_known() -> None:
    world = World(priority=7)
    outcome = world.look()
    assert world.policy.priority == 7
    assert world.policy.releases == ()
    assert world.open_rings() == []
    assert world.status.phase == "Pending"
    assert world.reason("Ready") == "False/Resolving"
    assert world.reason("Reconciling") == "True/Resolving"
    assert Waiting.REGISTRY in outcome.waiting
    assert REPOSITORY in world.status.message


def test_a_candidate_is_fetched_first_and_released_once_stored() -> None:
    world = World()
    world.look()
    world.resolves(found("1.0.0"))
    outcome = world.look()
    assert (version(world.policy.candidate), world.policy.target) == ("1.0.0", None)
    assert world.reason("Reconciling") == "True/StoringArtifact"
    assert Waiting.SERVERS in outcome.waiting
    world.serve(stored=False)
    world.look()
    assert world.policy.target is None
    world.serve()
    world.look()
    assert (version(world.policy.target), world.policy.candidate) == ("1.0.0", None)
    assert (world.policy.run, world.status.run) == (1, 1)
    assert world.open_rings() == ["canary"]


def test_stored_by_servers_that_use_an_older_policy_is_not_enough() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.spec(priority=1)
    before = world.published
    world.look()
    world.serve()
    said = world.answer.said
    assert said is not None
    assert before is not None
    old = said.model_copy(update={"revision": before.revision})
    world.answer = Answer(old, world.now)
    world.look()
    assert world.policy.target is None
    world.serve()
    world.look()
    assert version(world.policy.target) == "1.0.0"


def test_what_servers_stored_for_an_earlier_object_of_the_name_is_not_enough() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.serve()
    world.owner = "another"
    world.look()
    assert world.policy.target is None
    world.serve()
    world.look()
    assert version(world.policy.target) == "1.0.0"


def test_an_old_answer_of_the_servers_releases_nothing() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.serve()
    at = world.answer.at
    world.passes(61)
    world.answer = Answer(world.answer.said, at, "no route")
    world.look()
    assert world.policy.target is None
    assert world.reason("PolicyServed") == "Unknown/ServerUnreachable"


def test_the_stable_release_has_to_be_stored_too() -> None:
    world = World()
    world.release("1.0.0")
    world.tag("1.1.0")
    world.look()
    world.serve()
    said = world.answer.said
    assert said is not None
    candidate = world.policy.candidate
    assert candidate is not None
    only = [known for known in said.artifacts if known.digest == candidate.firmware.digest]
    world.answer = Answer(said.model_copy(update={"artifacts": tuple(only)}), world.now)
    world.look()
    assert version(world.policy.target) == "1.0.0"


def test_why_servers_cannot_store_the_candidate_is_said() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.serve(failed="no route to registry.example.com")
    world.look()
    assert world.reason("Reconciling") == "True/ArtifactNotStored"
    assert "no route to registry.example.com" in world.status.message


def test_rings_without_conditions_complete_one_after_another() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.serve()
    world.look()
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}
    assert world.status.ring_summary == "1/2"
    world.look()
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}, "nobody serves it yet"
    world.serve()
    world.look()
    assert world.rings() == {"canary": "Complete", "fleet": "Open"}
    world.serve()
    world.look()
    assert world.rings() == {"canary": "Complete", "fleet": "Complete"}
    world.settle()
    assert world.status.phase == "Completed"
    assert world.reason("Completed") == "True/Completed"
    assert world.reason("Ready") == "True/Completed"
    assert world.reason("Reconciling") == "False/Settled"
    assert version(world.policy.stable) == "1.0.0"
    assert world.history() == [(1, "1.0.0", "Completed")]
    stable = world.status.stable_release
    assert stable is not None
    assert stable.finished_at is not None


def test_a_settled_rollout_is_not_written_again() -> None:
    world = World()
    world.release("1.0.0")
    writes = world.writes
    for _ in range(3):
        world.passes(20)
        world.look()
    assert world.writes == writes


def test_a_new_release_starts_over_at_ring_0_and_supersedes() -> None:
    world = World(rings=[{"name": "canary", "percent": 10}, {"name": "fleet", **AT_ONCE}])
    world.release("1.0.0")
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}
    world.release("1.1.0")
    assert (world.status.run, version(world.policy.target)) == (2, "1.1.0")
    assert world.history() == [(1, "1.0.0", "Superseded")]
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [
        ("1.0.0", 1),
        ("1.1.0", 2),
    ]


def test_a_ring_completes_by_the_policy_of_its_own_run() -> None:
    world = World()
    world.release("1.0.0")
    world.tag("1.1.0")
    world.look()
    world.serve()
    world.look()
    assert world.status.run == 2
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}


def test_what_came_before_the_stable_release_is_not_taken_back() -> None:
    world = World(rings=[{"name": "fleet"}])
    world.release("1.0.0")
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.release("1.1.0")
    world.spec(rings=[{"name": "fleet"}])
    world.release("1.2.0")
    assert [(known.version, known.run) for known in world.policy.rollback_from] == [("1.2.0", 3)]


def test_a_completed_release_leaves_nothing_to_take_back_even_without_history() -> None:
    world = World(rings=[{"name": "fleet"}], historyLimit=0)
    world.release("1.0.0")
    assert len(world.policy.rollback_from) == 1
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.release("1.1.0")
    assert list(world.policy.rollback_from) == []


def test_a_status_from_a_backup_reuses_no_run() -> None:
    world = World(rings=[{"name": "fleet"}])
    world.release("1.0.0")
    backup = world.manifest["status"]
    world.release("1.1.0")
    world.manifest["status"] = backup
    world.release("1.2.0")
    assert world.status.run == 3


def test_a_completed_release_is_in_the_history_once_and_as_completed() -> None:
    world = World()
    world.release("1.0.0")
    world.release("1.1.0")
    assert world.history() == [(2, "1.1.0", "Completed"), (1, "1.0.0", "Completed")]
    assert world.policy.rollback_from == ()


def test_the_history_is_bounded() -> None:
    world = World(historyLimit=2)
    for minor in range(4):
        world.release(f"1.{minor}.0")
    assert [run for run, _, _ in world.history()] == [4, 3]


def test_a_run_is_above_all_that_was_ever_known() -> None:
    world = World()
    world.known_run = 41
    world.release("1.0.0")
    assert world.status.run == 42


def test_a_recreated_rollout_inherits_nothing_but_the_number() -> None:
    world = World()
    world.release("1.0.0")
    sequence = world.policy.sequence
    world.manifest["metadata"] |= {"uid": "uid-2", "generation": 1}
    world.manifest["status"] = {}
    world.resolution, world.answer = world.resolution.__class__(), Answer()
    world.look()
    assert world.owner == "uid-2"
    assert world.policy.releases == ()
    assert world.open_rings() == []
    assert world.policy.sequence > sequence
    assert world.policy.run == 1
    world.release("1.0.0")
    assert world.status.run == 2


def test_the_current_release_continues_while_the_registry_fails() -> None:
    world = World()
    world.release("1.0.0")
    writes = world.writes
    world.spec(artifact={"repository": REPOSITORY, "tag": "1.1.0"})
    world.fails(Reason.REGISTRY_UNREACHABLE, "no connection")
    world.settle()
    assert world.writes == writes
    assert world.status.phase == "Completed"
    assert world.reason("ArtifactResolved") == "False/RegistryUnreachable"
    assert world.reason("Ready") == "False/RegistryUnreachable"
    assert world.reason("Reconciling") == "True/RegistryUnreachable"
    assert world.reason("Completed") == "False/Resolving", "1.1.0 is not released at all"
    assert "no connection" in world.status.message


def test_a_failure_that_time_does_not_heal_stalls() -> None:
    world = World()
    world.fails(Reason.UNAUTHORIZED, "the registry wants credentials", lasting=True)
    outcome = world.look()
    assert world.reason("Stalled") == "True/Unauthorized"
    assert world.reason("Reconciling") == "False/Settled"
    assert world.status.phase == "Stalled"
    assert Waiting.PERSON in outcome.waiting


def test_a_restart_does_not_flap_what_is_ready() -> None:
    world = World()
    world.release("1.0.0")
    writes, before = world.writes, world.status
    world.passes(5)
    world.resolves(None)
    world.answer = Answer()
    world.look()
    assert world.status.conditions == before.conditions
    assert (world.status.phase, world.writes) == (before.phase, writes)
    world.answer = Answer(problem="no route")
    world.look()
    assert world.reason("PolicyServed") == "Unknown/ServerUnreachable"


def test_a_restart_does_not_call_a_policy_served_that_was_not() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(priority=1)
    world.look()
    world.answer = Answer()
    world.look()
    assert world.reason("PolicyServed") == "Unknown/NotServedYet"
    assert world.reason("Ready") == "False/WaitingForServers"


def test_completed_is_about_what_the_spec_asks_for() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(artifact={"repository": REPOSITORY, "tag": "1.1.0"})
    world.look()
    assert world.reason("Completed") == "False/Resolving"
    world.resolves(found("1.1.0"))
    world.look()
    assert world.reason("Completed") == "False/Progressing"
    world.settle()
    assert world.reason("Completed") == "True/Completed"


def test_a_candidate_that_is_not_wanted_any_more_is_not_released() -> None:
    world = World()
    world.release("1.0.0")
    world.tag("1.1.0")
    world.look()
    world.serve()
    world.spec(artifact={"repository": REPOSITORY, "tag": "1.0.0"})
    world.look()
    assert version(world.policy.target) == "1.0.0"
    world.resolves(found("1.0.0"))
    world.settle()
    assert (world.policy.candidate, world.status.run) == (None, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": "its revision is wrong", "revision": None}, "False/PolicyRejected"),
        ({"schema_versions": (2,), "revision": None}, "False/SchemaUnsupported"),
        ({"revision": None}, "False/NotServedYet"),
    ],
)
def test_what_servers_do_with_the_policy(change: dict[str, object], reason: str) -> None:
    world = World()
    world.release("1.0.0")
    said = world.answer.said
    assert said is not None
    world.answer = Answer(said.model_copy(update=change), world.now)
    world.look()
    assert world.reason("PolicyServed") == reason
    assert world.reason("Ready") == "False/WaitingForServers"


def test_wakes_once_an_answer_is_too_old() -> None:
    world = World()
    world.release("1.0.0")
    outcome = world.look()
    assert outcome.wake_at is not None
    assert 60 < (outcome.wake_at - world.now).total_seconds() <= 61


def test_a_condition_of_a_newer_operator_is_no_obstacle() -> None:
    world = World()
    world.release("1.0.0")
    for known in world.manifest["status"]["conditions"]:
        known["reason"] = "Novelty"
    newer = world.manifest["status"]["conditions"][0] | {"type": "Novelty"}
    world.manifest["status"]["conditions"].append(newer)
    world.resolves(None)
    world.look()
    assert world.reason("ArtifactResolved") == "True/Resolved"
    assert world.status.phase == "Completed"
