"""The operator against ports in memory: what it does when, and what does not hold it up."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest
import structlog
from structlog.testing import capture_logs

from otaflux_oci import RegistryUnreachable, Unauthorized
from otaflux_operator.epochs import Epochs
from otaflux_operator.grouping import Groups
from otaflux_operator.handover import Handover
from otaflux_operator.ports import Conflict, Key, Kind, Unavailable
from otaflux_policy.credentials import RegistryAccess
from otaflux_policy.groups import Group
from tests.operator.fakes import (
    QUICK,
    Cluster,
    eventually,
    group_manifest,
    rollout_key,
    running,
    with_rollout,
)
from tests.operator.worlds import REPOSITORY, manifest


def completed(cluster: Cluster, key: Key, version: str = "1.0.0") -> bool:
    status = cluster.status(key)
    return (
        status.get("phase") == "Completed"
        and status["release"]["version"] == version
        and cluster.condition(key, "Ready")["status"] == "True"
    )


def seen_more_often(cluster: Cluster, looks: int) -> bool:
    return cluster.calls.count("rollout") > looks


async def test_from_a_manifest_to_a_completed_rollout_without_a_mark() -> None:
    cluster, key = with_rollout()
    async with running(cluster):
        await eventually(lambda: completed(cluster, key))
    policy = cluster.policy(key)
    assert policy is not None
    assert policy.stable is not None
    assert [ring.open for ring in policy.rings] == [True, True]
    assert cluster.published[key][1] == "uid-1"


async def test_what_is_settled_is_not_written_again() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        writes = cluster.calls.count("publish"), cluster.calls.count("write_status")
        for looks in range(cluster.calls.count("rollout"), cluster.calls.count("rollout") + 5):
            operator.mark(key)
            await eventually(partial(seen_more_often, cluster, looks))
        assert writes == (cluster.calls.count("publish"), cluster.calls.count("write_status"))


async def test_a_pause_waits_neither_for_registry_nor_servers() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        cluster.held["manifest 1.1.0"] = cluster.held["served"] = asyncio.Event()
        cluster.edit(key, artifact={"repository": REPOSITORY, "tag": "1.1.0"})
        operator.mark(key)
        await eventually(lambda: "manifest 1.1.0" in cluster.calls)
        cluster.edit(key, state="Paused")
        operator.mark(key)
        await eventually(lambda: (p := cluster.policy(key)) is not None and p.state == "Paused")
        del cluster.objects[key]
        operator.mark(key)
        await eventually(lambda: cluster.policy(key) is None)


async def test_another_tag_does_not_wait_for_the_one_before() -> None:
    cluster, key = with_rollout()
    cluster.tags["1.1.0"] = "1.1.0"
    cluster.held["manifest 1.0.0"] = asyncio.Event()
    async with running(cluster, replace(QUICK, resolve_workers=1)) as operator:
        await eventually(lambda: "manifest 1.0.0" in cluster.calls)
        cluster.edit(key, artifact={"repository": REPOSITORY, "tag": "1.1.0"})
        operator.mark(key)
        await eventually(lambda: completed(cluster, key, "1.1.0"))


async def test_a_tag_that_moves_is_seen_after_the_interval() -> None:
    artifact = {"repository": REPOSITORY, "tag": "stable", "interval": "1s"}
    cluster, key = with_rollout(artifact=artifact)
    cluster.tags["stable"] = "first"
    async with running(cluster):
        await eventually(lambda: cluster.status(key).get("phase") == "Completed")
        cluster.tags["stable"] = "second"
        await eventually(lambda: cluster.status(key)["run"] == 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RegistryUnreachable("no connection"), "RegistryUnreachable"),
        (Unauthorized("other credentials"), "Unauthorized"),
    ],
)
async def test_a_failing_registry_is_asked_again(
    error: RegistryUnreachable | Unauthorized, reason: str
) -> None:
    cluster, key = with_rollout()
    cluster.registry_error = error
    async with running(cluster):
        await eventually(lambda: cluster.condition(key, "ArtifactResolved")["reason"] == reason)
        cluster.registry_error = None
        await eventually(lambda: completed(cluster, key))


@pytest.mark.parametrize(
    ("method", "trouble"),
    [
        ("rollout", Unavailable("no API server")),
        ("policy", Unavailable("no API server")),
        ("publish", Unavailable("no API server")),
        ("publish", Conflict("somebody was faster")),
        ("write_status", Unavailable("no API server")),
        ("write_status", Conflict("somebody was faster")),
        ("keys", Unavailable("no API server")),
        ("served", Unavailable("no servers")),
        ("rollout", RuntimeError("a mistake")),
    ],
)
async def test_what_goes_wrong_is_tried_again(method: str, trouble: Exception) -> None:
    cluster, key = with_rollout()
    cluster.troubles[method] = [trouble] * 3
    async with running(cluster):
        await eventually(lambda: completed(cluster, key))
    assert not cluster.troubles[method]


async def test_a_conflict_means_that_everything_is_observed_again() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        held = cluster.held["publish"] = asyncio.Event()
        cluster.edit(key, priority=1)
        operator.mark(key)
        publishes = cluster.calls.count("publish")
        await eventually(lambda: cluster.calls.count("publish") > publishes)
        content, owner, _ = cluster.published[key]
        cluster.published[key] = (content, owner, int(cluster.version()))
        cluster.edit(key, priority=2)
        held.set()
        await eventually(lambda: (p := cluster.policy(key)) is not None and p.priority == 2)


async def test_a_mistake_with_one_object_neither_stops_others_nor_shows_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster, key = with_rollout()
    cluster.troubles["secret"] = [RuntimeError("the password is s3cret")] * 3
    artifact = {"repository": REPOSITORY, "tag": "1.0.0", "secretRef": {"name": "robot"}}
    cluster.put(rollout_key("other"), manifest(uid="uid-2", artifact=artifact))
    with structlog.testing.capture_logs() as logs:
        async with running(cluster):
            await eventually(lambda: completed(cluster, key))
            await eventually(lambda: not cluster.troubles["secret"])
    assert any(line["log_level"] == "error" for line in logs)
    assert "s3cret" not in str(logs) + capsys.readouterr().out


async def test_orphans_are_withdrawn_at_the_start_and_later_without_any_event() -> None:
    cluster, key = with_rollout()
    async with running(cluster):
        await eventually(lambda: completed(cluster, key))
    del cluster.objects[key]
    async with running(cluster):
        await eventually(lambda: key not in cluster.published)
    cluster.put(key, manifest())
    async with running(cluster):
        await eventually(lambda: completed(cluster, key))
        del cluster.objects[key]
        await eventually(lambda: key not in cluster.published)


async def test_what_is_missing_is_published_without_any_event() -> None:
    cluster, key = with_rollout()
    async with running(cluster):
        await eventually(lambda: completed(cluster, key))
        policy = cluster.policy(key)
        del cluster.published[key]
        await eventually(lambda: key in cluster.published)
        again = cluster.policy(key)
        assert policy is not None
        assert again is not None
        assert (again.run, again.target, again.rings) == (policy.run, policy.target, policy.rings)
        assert again.sequence > policy.sequence


async def test_damage_around_a_policy_is_repaired() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        cluster.damaged.add(key)
        operator.mark(key)
        await eventually(lambda: key not in cluster.damaged)


async def test_a_restart_goes_on_where_it_was() -> None:
    cluster, key = with_rollout(rings=[{"name": "canary", "percent": 5}, {"name": "fleet"}])
    async with running(cluster):
        await eventually(lambda: cluster.condition(key, "Ready")["reason"] == "NoDevices")
    policy, status = cluster.policy(key), cluster.status(key)
    cluster.registry_error = RegistryUnreachable("no connection")
    async with running(cluster):
        await eventually(
            lambda: cluster.condition(key, "ArtifactResolved")["reason"] == "RegistryUnreachable"
        )
    assert cluster.policy(key) == policy
    assert cluster.status(key)["run"] == status["run"]
    assert cluster.status(key)["rings"] == status["rings"]


async def test_a_spec_that_cannot_be_read_stalls_and_stays_published() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        policy = cluster.policy(key)
        cluster.edit(key, rings=[{"name": "Fleet"}])
        operator.mark(key)
        await eventually(lambda: cluster.condition(key, "Stalled")["status"] == "True")
        assert cluster.condition(key, "Stalled")["reason"] == "InvalidSpec"
        assert "rings" in cluster.status(key)["message"]
        assert cluster.policy(key) == policy


async def test_statuses_that_say_nothing_new_are_held_back() -> None:
    cluster, key = with_rollout()
    cluster.registry_error = RegistryUnreachable("message 0")
    async with running(cluster, replace(QUICK, status_every=3600.0)) as operator:
        await eventually(
            lambda: cluster.condition(key, "ArtifactResolved")["reason"] == "RegistryUnreachable"
        )
        cluster.registry_error = RegistryUnreachable("message 1")
        seen = cluster.calls.count("manifest 1.0.0")
        await eventually(lambda: cluster.calls.count("manifest 1.0.0") > seen + 2)
        assert "message 0" in cluster.status(key)["message"]
        cluster.edit(key, state="Paused")
        operator.mark(key)
        await eventually(lambda: cluster.status(key)["phase"] == "Paused")
        assert "message 1" in cluster.status(key)["message"]


async def test_no_object_is_reconciled_twice_at_a_time() -> None:
    cluster, key = with_rollout()
    cluster.held["rollout"] = asyncio.Event()
    async with running(cluster) as operator:
        await eventually(lambda: "rollout" in cluster.calls)
        for _ in range(5):
            operator.mark(key)
            await asyncio.sleep(0)
        assert cluster.calls.count("rollout") == 1
        cluster.held["rollout"].set()
        await eventually(lambda: completed(cluster, key))


async def test_transitions_are_told_once_with_the_reason_of_the_condition() -> None:
    cluster, key = with_rollout()
    cluster.registry_error = Unauthorized("other credentials")
    async with running(cluster):
        await eventually(lambda: cluster.condition(key, "Stalled")["status"] == "True")
        cluster.registry_error = None
        await eventually(lambda: completed(cluster, key))
        await eventually(lambda: any(told.reason == "Completed" for told in cluster.notices))
    told = [(notice.reason, notice.warning) for notice in cluster.notices]
    assert told.count(("Unauthorized", True)) == 1
    assert told.count(("Resolved", False)) == 1
    assert told.count(("Completed", False)) == 1
    assert all(notice.uid == "uid-1" for notice in cluster.notices)


async def test_one_question_without_an_answer_changes_nothing() -> None:
    cluster, key = with_rollout()
    async with running(cluster) as operator:
        await eventually(lambda: completed(cluster, key))
        cluster.serving = False
        asked = cluster.calls.count("served")
        await eventually(lambda: cluster.calls.count("served") > asked + 2)
        looks = cluster.calls.count("rollout")
        operator.mark(key)
        await eventually(lambda: cluster.calls.count("rollout") > looks)
        await eventually(lambda: completed(cluster, key))


async def test_a_group_that_changes_or_is_recreated_is_published_again() -> None:
    cluster, key = Cluster(), Key(Kind.GROUP, "home", "lab")
    cluster.put(key, group_manifest(["lab-1"], site="berlin"))
    async with running(cluster) as operator:
        await eventually(lambda: key in cluster.published)
        cluster.edit(key, names=["lab-2"])
        operator.mark(key)
        await eventually(lambda: getattr(cluster.published[key][0], "names", ()) == ("lab-2",))
        cluster.objects[key]["metadata"]["uid"] = "another"
        operator.mark(key)
        await eventually(lambda: cluster.published[key][1] == "another")


async def test_groups_are_published_withdrawn_and_compared() -> None:
    cluster = Cluster()
    berlin, paris = Key(Kind.GROUP, "home", "berlin"), Key(Kind.GROUP, "home", "paris")
    cluster.put(berlin, group_manifest(["lab-*"], site="berlin"))
    async with running(cluster) as operator:
        await eventually(lambda: cluster.condition(berlin, "Ready")["status"] == "True")
        published = cluster.published[berlin][0]
        assert isinstance(published, Group)
        assert (published.names, published.labels) == (("lab-*",), {"site": "berlin"})
        assert cluster.condition(berlin, "LabelConflict")["status"] == "False"
        cluster.put(paris, group_manifest(["lab-1"], site="paris"))
        operator.mark(paris)
        await eventually(lambda: cluster.condition(paris, "LabelConflict")["status"] == "True")
        await eventually(lambda: cluster.condition(berlin, "LabelConflict")["status"] == "True")
        assert "berlin wins" in cluster.condition(paris, "LabelConflict")["message"]
        assert any(told.reason == "LabelConflict" for told in cluster.notices)
        del cluster.objects[berlin]
        operator.mark(berlin)
        await eventually(lambda: berlin not in cluster.published)
        await eventually(lambda: cluster.condition(paris, "LabelConflict")["status"] == "False")


async def test_marks_from_another_thread_are_seen() -> None:
    cluster, key = with_rollout()
    async with running(cluster, replace(QUICK, sweep_every=3600.0)) as operator:
        await eventually(lambda: completed(cluster, key))
        cluster.edit(key, priority=5)
        await asyncio.to_thread(operator.mark_from_thread, key)
        await eventually(lambda: (p := cluster.policy(key)) is not None and p.priority == 5)


async def test_a_group_is_not_called_published_before_it_is() -> None:
    cluster, key = Cluster(), Key(Kind.GROUP, "home", "lab")
    cluster.put(key, group_manifest(["lab-1"], site="berlin"))
    groups = Groups(cluster.ports, lambda _: None, Epochs())
    await groups.reconcile(key)
    cluster.edit(key, names=["lab-2"])
    await groups.compare("home")
    assert cluster.status(key) == {}, "what was published is another generation"
    await groups.reconcile(key)
    await groups.compare("home")
    assert cluster.condition(key, "Ready")["status"] == "True"
    assert cluster.status(key)["observedGeneration"] == 2


async def test_a_status_that_cannot_be_read_is_said() -> None:
    cluster, key = with_rollout()
    cluster.objects[key]["status"] = {"phase": "Novel"}
    with capture_logs() as lines:
        async with running(cluster):
            await eventually(lambda: any(line["log_level"] == "error" for line in lines))
    line = next(line for line in lines if line["log_level"] == "error")
    assert "status.phase" in line["why"]
    assert line["object"] == str(key)


async def test_an_outage_is_told_once_per_object() -> None:
    cluster, key = with_rollout()
    cluster.troubles["rollout"] = [
        Unavailable(why) for why in ("no route", "other") for _ in range(5)
    ]
    with capture_logs() as lines:
        async with running(cluster):
            await eventually(lambda: completed(cluster, key))
    told = [line["why"] for line in lines if line["event"] == "not reconciled"]
    assert told == ["no route", "other"]


async def test_an_entry_that_is_needed_again_while_it_is_removed_is_there() -> None:
    cluster, access = Cluster(), RegistryAccess(username="robot", password="x")
    handover = Handover(cluster.ports.entries, cluster.ports.publications)
    await handover.ensure("entry", access)
    cluster.held["remove"] = asyncio.Event()
    pruning = asyncio.create_task(handover.prune(set))
    await eventually(lambda: "remove" in cluster.calls)
    needing = asyncio.create_task(handover.ensure("entry", access))
    await asyncio.sleep(0)
    cluster.held["remove"].set()
    await asyncio.gather(pruning, needing)
    assert cluster.credentials == {"entry": access}
