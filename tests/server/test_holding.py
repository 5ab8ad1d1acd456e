"""What was published but could never be read holds its namespace: it might have said no."""

from pathlib import Path

import pytest

from otaflux_policy.canonical import dumps
from otaflux_policy.contract import Ring
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group
from otaflux_policy.reasons import DecisionReason
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import PolicyFiles
from otaflux_server.settings import ArtifactSettings
from tests.server.fleets import (
    NAMESPACE,
    Served,
    digest_of,
    firmware,
    group,
    policy,
    release,
    serving,
    settings,
    version_body,
)

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)


class Asked:
    """One device that polls again and again."""

    def __init__(self, store: PolicyStore, directory: Path) -> None:
        self.decisions = Decisions(store, ArtifactStore(directory, ArtifactSettings(), Metrics()))
        self.record = DeviceRecord(Device(NAMESPACE, "kitchen-1"), "test", 0.0)

    def reason(self) -> DecisionReason:
        return self.decisions.decide(self.record).decision.reason


def test_a_remembered_decision_follows_readiness_and_refusals(tmp_path: Path) -> None:
    store = PolicyStore(Metrics())
    asked = Asked(store, tmp_path)
    assert asked.reason() is DecisionReason.HOLD
    store.connected()
    assert asked.reason() is DecisionReason.NO_MATCH
    for reject, remove in (
        (store.reject_policy, store.remove_policy),
        (store.reject_group, store.remove_group),
    ):
        reject(NAMESPACE, "broken", "x")
        assert asked.reason() is DecisionReason.HOLD
        remove(NAMESPACE, "broken")
        assert asked.reason() is DecisionReason.NO_MATCH


def test_one_that_could_be_read_once_holds_nobody(tmp_path: Path) -> None:
    store = PolicyStore(Metrics())
    store.connected()
    asked = Asked(store, tmp_path)
    item = policy(target=release("1.4.0"))
    store.apply_policy(NAMESPACE, item.name, dumps(item))
    store.reject_policy(NAMESPACE, item.name, "x")
    assert asked.reason() is DecisionReason.ARTIFACT_UNAVAILABLE


@pytest.mark.parametrize("kind", ["policies", "groups"])
def test_devices_of_others_are_held_too(served: Served, kind: str) -> None:
    """The one that cannot be read may come first, or give the labels that keep a device out."""
    served.offer("1.4.0", CONTENT)
    served.get("/version?device=a")
    assert served.get("/firmware?device=a").body == CONTENT
    store = served.server.policies
    reject = store.reject_policy if kind == "policies" else store.reject_group
    served.call(lambda: reject(NAMESPACE, "first", "x"))
    assert b"(Hold)" in served.get("/firmware?device=a").body
    assert b"(Hold)" in served.get("/version?device=a").body
    assert b"(NoMatch)" in served.get("/t/office/version?device=a").body
    remove = store.remove_policy if kind == "policies" else store.remove_group
    served.call(lambda: remove(NAMESPACE, "first"))
    assert served.get("/version?device=a").body == BODY


def excluding(data_dir: Path) -> Group:
    """A stored fleet in which a group keeps `kitchen-1` out of the only open ring."""
    excluded = group("excluded", names=("kitchen-1",), labels={"hold": "yes"})
    ring = Ring(
        name="all",
        open=True,
        selector={"matchExpressions": [{"key": "hold", "operator": "DoesNotExist"}]},
    )
    with serving(settings(data_dir)) as served:
        served.apply(excluded)
        served.offer("1.4.0", CONTENT, rings=(ring,))
        assert served.get("/version?device=kitchen-1").status == 404
        assert served.get("/version?device=hall-1").body == BODY
    return excluded


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"{}"])
def test_a_saved_group_that_cannot_be_read_lets_nobody_through(
    tmp_path: Path, damage: bytes
) -> None:
    excluded = excluding(tmp_path)
    (tmp_path / "groups" / NAMESPACE / "excluded.json").write_bytes(damage)
    with serving(settings(tmp_path)) as served:
        assert b"(Hold)" in served.get("/version?device=kitchen-1").body
        served.apply(excluded)
        assert served.get("/version?device=kitchen-1").status == 404
        assert served.get("/version?device=hall-1").body == BODY


def test_one_file_that_cannot_be_written_keeps_no_other_from_being_saved(tmp_path: Path) -> None:
    files = PolicyFiles(tmp_path)
    (tmp_path / "policies" / NAMESPACE / "a.json" / "in the way").mkdir(parents=True)
    for name in ("a", "b"):
        files.save("policies", (NAMESPACE, name), dumps(policy(name)))
    files.close()
    assert files.failure
    saved = PolicyFiles(tmp_path).load()
    assert saved.policies[NAMESPACE, "b"] == dumps(policy("b"))


def test_namespaces_that_are_not_served_any_more_are_forgotten(tmp_path: Path) -> None:
    content = firmware("1.4.0")
    store = PolicyStore(Metrics(), PolicyFiles(tmp_path))
    for namespace in (NAMESPACE, "office"):
        item = policy(namespace=namespace, target=release("1.4.0", content))
        store.apply_policy(namespace, item.name, dumps(item))
        label = group("g", namespace=namespace)
        store.apply_group(namespace, "g", dumps(label))
    store.reject_policy("attic", "broken", "x")
    store.keep_only([NAMESPACE])
    assert [item.namespace for item in store.policies()] == [NAMESPACE]
    assert not store.rejections()
    assert store.rules("office").policies == ()
    assert digest_of(content) == store.policies()[0].releases[0].firmware.digest
