"""Policies in use: validation, last known good, persistence, and restarts on one directory."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy, State
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import PolicyFiles
from tests.server.fleets import (
    CREATED,
    NAMESPACE,
    Served,
    firmware,
    group,
    policy,
    release,
    serving,
    settings,
    version_body,
)

CONTENT = firmware("1.4.0")


@pytest.fixture
def store() -> PolicyStore:
    return PolicyStore(Metrics())


def apply(store: PolicyStore, item: Policy) -> bool:
    return store.apply_policy(item.namespace, item.name, dumps(item))


def test_a_policy_is_in_use_when_the_call_returns(store: PolicyStore) -> None:
    item = policy()
    assert apply(store, item)
    assert store.rules(NAMESPACE).policies == (item,)
    assert store.policy(NAMESPACE, "thermostat") == item


def test_policies_stand_in_the_order_in_which_they_count(store: PolicyStore) -> None:
    for name, priority in (("b", 0), ("a", 0), ("c", 5)):
        apply(store, policy(name, priority=priority))
    assert [item.name for item in store.rules(NAMESPACE).policies] == ["c", "a", "b"]


def test_each_change_gives_a_new_generation(store: PolicyStore) -> None:
    store.connected()
    seen = {store.rules(NAMESPACE).generation}
    apply(store, policy())
    seen.add(store.rules(NAMESPACE).generation)
    members = group("g", names=("x",))
    store.apply_group(NAMESPACE, "g", dumps(members))
    seen.add(store.rules(NAMESPACE).generation)
    store.remove_group(NAMESPACE, "g")
    seen.add(store.rules(NAMESPACE).generation)
    store.remove_policy(NAMESPACE, "thermostat")
    seen.add(store.rules(NAMESPACE).generation)
    apply(store, policy())
    seen.add(store.rules(NAMESPACE).generation)
    assert len(seen) == 5  # nothing at all is generation 0, both times
    assert store.rules("office").generation == 0


def test_the_same_again_changes_nothing(store: PolicyStore) -> None:
    told: list[str] = []
    store.subscribe(lambda: told.append("changed"))
    apply(store, policy())
    before = store.rules(NAMESPACE)
    assert apply(store, policy())
    assert store.rules(NAMESPACE) is before
    assert told == ["changed"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[]", "invalid at its root"),
        ("{}", "invalid at"),
        (dumps(policy()).replace('"run":1', '"run":2'), "revision"),
        (dumps(policy()).replace('"run":1', '"run":"x"'), "run"),
        (dumps(seal(policy().model_copy(update={"name": "x"}))), "another object"),
        (dumps(policy()).replace('"schemaVersion":1', '"schemaVersion":9'), "schemaVersion"),
        (dumps(policy())[:-1] + ',"extra":1}', "extra"),
        (dumps(policy())[:-1] + ',"run":1}', "not JSON"),
        (" " * (901 * 1024), "larger"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason(store: PolicyStore, text: str, why: str) -> None:
    good = policy()
    apply(store, good)
    assert not store.apply_policy(NAMESPACE, "thermostat", text)
    assert why in store.rejected(NAMESPACE, "thermostat")
    assert store.policy(NAMESPACE, "thermostat") == good
    assert apply(store, policy(sequence=1))
    assert store.rejected(NAMESPACE, "thermostat") == ""


def test_a_refusal_is_told_once_as_long_as_it_stays_the_same(store: PolicyStore) -> None:
    with capture_logs() as lines:
        for text in ("x", "x", "{}", "x"):
            store.apply_policy(NAMESPACE, "thermostat", text)
    told = [line["why"] for line in lines if line["event"] == "published object refused"]
    assert len(told) == 3
    assert told[0] == told[2] != told[1]


def test_an_older_policy_does_not_come_back(store: PolicyStore) -> None:
    apply(store, policy(epoch=2, sequence=5))
    assert not apply(store, policy(epoch=2, sequence=4, state=State.PAUSED))
    assert not apply(store, policy(epoch=1, sequence=9, state=State.PAUSED))
    assert "older" in store.rejected(NAMESPACE, "thermostat")
    assert apply(store, policy(epoch=3, sequence=0, state=State.PAUSED))


def test_a_rollout_that_was_created_again_counts_anew(store: PolicyStore) -> None:
    apply(store, policy(epoch=2, sequence=5))
    later = CREATED.replace(year=2027)
    assert apply(store, policy(epoch=2, sequence=1, created_at=later))


def test_names_cannot_leave_the_directory(store: PolicyStore) -> None:
    for namespace, name in (("..", "x"), ("home", "../x"), ("home", ""), ("home", "a/b")):
        item = seal(policy().model_copy(update={"namespace": namespace, "name": name}))
        assert not apply(store, item)
        assert not store.apply_group(namespace, name, "{}")


def test_a_list_replaces_everything(store: PolicyStore) -> None:
    told: list[str] = []
    for name in ("a", "b"):
        apply(store, policy(name))
    apply(store, policy("a", namespace="office"))
    store.reject_policy(NAMESPACE, "broken", "x")
    store.subscribe(lambda: told.append("changed"))
    members = group("g", names=("x",))
    texts = {(NAMESPACE, "b"): dumps(policy("b", priority=1)), (NAMESPACE, "c"): dumps(policy("c"))}
    store.replace(texts, {(NAMESPACE, "g"): dumps(members)}, namespaces=[NAMESPACE])
    assert {item.name for item in store.rules(NAMESPACE).policies} == {"b", "c"}
    assert len(store.rules("office").policies) == 1
    assert store.rejected(NAMESPACE, "broken") == ""
    assert told == ["changed"]
    store.replace({}, {})
    assert store.policies() == []


def test_what_cannot_be_read_in_a_list_keeps_its_last_good(store: PolicyStore) -> None:
    good = policy()
    apply(store, good)
    store.replace({(NAMESPACE, "thermostat"): "garbage"}, {})
    assert store.policy(NAMESPACE, "thermostat") == good
    store.replace({}, {}, unusable=[("policies", (NAMESPACE, "thermostat"))])
    assert store.policy(NAMESPACE, "thermostat") == good


def test_the_highest_run_outlives_the_rollout(store: PolicyStore) -> None:
    apply(store, policy(run=7))
    apply(store, policy(run=3, sequence=1))
    store.remove_policy(NAMESPACE, "thermostat")
    assert store.run(NAMESPACE, "thermostat") == 7
    assert store.run(NAMESPACE, "other") == 0


def test_remembered_runs_are_bounded(store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otaflux_server.policy_marks.REMEMBERED", 3)
    apply(store, policy("kept", run=9))
    for i in range(6):
        apply(store, policy(f"gone-{i}", run=1))
        store.remove_policy(NAMESPACE, f"gone-{i}")
    assert store.run(NAMESPACE, "kept") == 9
    assert store.run(NAMESPACE, "gone-5") == 1
    assert store.run(NAMESPACE, "gone-0") == 0


class TestFiles:
    def _store(self, path: Path) -> tuple[PolicyStore, PolicyFiles]:
        files = PolicyFiles(path)
        store = PolicyStore(Metrics(), files)
        store.load()
        return store, files

    async def test_what_was_served_is_there_again(self, tmp_path: Path) -> None:
        store, files = self._store(tmp_path)
        assert not store.ready
        item, members = policy(run=4, epoch=1, sequence=9), group("g", names=("x",))
        apply(store, item)
        store.apply_group(NAMESPACE, "g", dumps(members))
        apply(store, policy("gone", run=6))
        store.remove_policy(NAMESPACE, "gone")
        files.close()
        again, _ = self._store(tmp_path)
        assert again.ready
        assert again.policies() == [item]
        assert again.rules(NAMESPACE).groups.of("x") == [members]
        assert again.run(NAMESPACE, "gone") == 6
        assert again.disconnection
        assert not apply(again, policy(sequence=8, state=State.PAUSED))

    async def test_that_nothing_was_published_is_known_too(self, tmp_path: Path) -> None:
        store, files = self._store(tmp_path)
        store.connected()
        files.close()
        assert self._store(tmp_path)[0].ready

    @pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", b'{"schemaVersion":2}'])
    async def test_a_damaged_file_is_not_used(self, tmp_path: Path, damage: bytes) -> None:
        store, files = self._store(tmp_path)
        apply(store, policy("a"))
        apply(store, policy("b"))
        files.close()
        (tmp_path / "policies" / NAMESPACE / "a.json").write_bytes(damage)
        (tmp_path / "policies.json").write_bytes(damage)
        (tmp_path / "policies" / NAMESPACE / ".x.tmp").write_bytes(b"left over")
        again, _ = self._store(tmp_path)
        assert [item.name for item in again.policies()] == ["b"]
        assert not (tmp_path / "policies" / NAMESPACE / ".x.tmp").exists()

    async def test_a_file_moved_elsewhere_is_not_used(self, tmp_path: Path) -> None:
        store, files = self._store(tmp_path)
        apply(store, policy("a"))
        files.close()
        folder = tmp_path / "policies" / NAMESPACE
        (folder / "a.json").rename(folder / "b.json")
        assert self._store(tmp_path)[0].policies() == []

    async def test_a_disk_that_fails_is_reported_and_tried_again(self, served: Served) -> None:
        data = served.server.settings.data_dir
        (data / "policies").write_text("a file where a directory should be")
        served.apply(policy(target=release("1.4.0", CONTENT)))
        served.wait(lambda: bool(served.server._files.failure))
        (data / "policies").unlink()
        served.wait(lambda: not served.server._files.failure)
        saved = data / "policies" / NAMESPACE / "thermostat.json"
        served.wait(saved.exists)
        assert json.loads(saved.read_text())["name"] == "thermostat"


def test_a_restart_changes_no_answer(tmp_path: Path) -> None:
    """Without a source: from disk alone. The pin holds too."""
    paths = ["/version?device=kitchen-1", "/version?device=cellar-1&version=1.0.0", "/version"]
    body = b'{"device":"kitchen-1","version":"1.3.0"}'
    with serving(settings(tmp_path)) as served:
        served.apply(group("kitchens", names=("kitchen-*",), labels={"room": "kitchen"}))
        served.offer("1.4.0", CONTENT, device_selector={"matchLabels": {"room": "kitchen"}})
        before = [served.get(path).raw for path in paths]
        polled = served.post("/api/v1/poll", body).raw
    source = served.source
    source.blobs.clear()
    with serving(settings(tmp_path), source=source) as served:
        assert served.get("/firmware?device=kitchen-1").body == CONTENT
        assert [served.get(path).raw for path in paths] == before
        assert served.post("/api/v1/poll", body).raw == polled
        assert served.get("/version?device=kitchen-1").body == version_body("1.4.0", CONTENT)
        assert served.get("/firmware?device=kitchen-1").body == CONTENT
    assert len(source.pulls) == 1
