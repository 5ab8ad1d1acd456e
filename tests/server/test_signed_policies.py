"""A cluster's policies: only what a known key signed, only what is newer, and what is kept."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy, State
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import PolicyFiles, Saved
from otaflux_server.policy_keys import PolicyKeys
from tests.server.fleets import CREATED, NAMESPACE, group, policy, until
from tests.server.signatures import KEY, OTHER_KEY, apply, signed_store

PAUSED = policy(epoch=3, sequence=6, state=State.PAUSED)
GOOD = policy(epoch=3, sequence=5)
MEMBERS = seal(group("g", names=("x",)).model_copy(update={"epoch": 3, "sequence": 5}))


def changed(item: Policy | Group, **fields: object) -> Policy | Group:
    if isinstance(item, Policy):
        return seal(item.model_copy(update=fields))
    return seal(item.model_copy(update=fields))


def later(item: Policy | Group, epoch: int, sequence: int) -> Policy | Group:
    return changed(item, epoch=epoch, sequence=sequence)


def held(store: PolicyStore) -> bool:
    return store.rules(NAMESPACE).held


@pytest.fixture
def store() -> PolicyStore:
    found = signed_store()
    found.connected()
    return found


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"signature": ""}, RejectionReason.UNSIGNED),
        ({"signature": "x"}, RejectionReason.BAD_SIGNATURE),
        ({"signature": KEY.sign(Policy, dumps(GOOD))}, RejectionReason.BAD_SIGNATURE),
        ({"signature": KEY.sign(Group, dumps(PAUSED))}, RejectionReason.BAD_SIGNATURE),
        ({"key": OTHER_KEY}, RejectionReason.UNKNOWN_KEY),
        ({"name": "other"}, RejectionReason.OTHER_OBJECT),
        ({"text": "{}"}, RejectionReason.INVALID),
    ],
)
def test_what_is_refused_changes_nothing_and_says_why(
    store: PolicyStore, given: dict[str, Any], reason: RejectionReason
) -> None:
    assert apply(store, GOOD)
    assert not apply(store, PAUSED, **given)
    name = str(given.get("name", "thermostat"))
    assert store.rejection(NAMESPACE, name) is reason
    assert store.rejected(NAMESPACE, name)
    assert store.rules(NAMESPACE).policies == (GOOD,)
    label = f'otaflux_policies_rejected_total{{kind="policies",reason="{reason}"}} 1.0'
    assert label in store._metrics.text().decode()
    assert apply(store, PAUSED)
    assert store.policy(NAMESPACE, "thermostat") == PAUSED


@pytest.mark.parametrize("item", [GOOD, MEMBERS], ids=["policy", "group"])
def test_nothing_older_comes_into_use_also_once_it_is_gone(
    store: PolicyStore, item: Policy | Group
) -> None:
    remove = store.remove_policy if isinstance(item, Policy) else store.remove_group
    assert apply(store, later(item, 3, 7))
    assert not apply(store, item)
    assert not apply(store, later(item, 2, 99))
    # Also not with another content of the same number, which nobody but a thief would sign.
    field = {"priority": 9} if isinstance(item, Policy) else {"model": "m"}
    assert not apply(store, changed(item, epoch=3, sequence=7, **field))
    remove(NAMESPACE, item.name)
    for epoch, sequence in ((3, 7), (3, 5), (2, 99)):
        assert not apply(store, later(item, epoch, sequence))
    assert not held(store)
    assert apply(store, later(item, 3, 8))
    assert store.epoch == 3
    # A rollout that is created again counts on.
    if isinstance(item, Policy):
        new = item.model_copy(update={"created_at": CREATED.replace(year=2030)})
        assert not apply(store, later(new, 3, 1))
        assert store.rejection(NAMESPACE, item.name) is RejectionReason.REPLAYED


def test_whoever_may_write_config_maps_holds_nobody(store: PolicyStore) -> None:
    assert apply(store, GOOD)
    store.reject_policy(NAMESPACE, "no-key", "nothing there")
    store.reject_group(NAMESPACE, "no-key", "nothing there")
    for name in ("copy", "-x", "x.y"):
        assert not apply(store, GOOD, name=name)
        assert not apply(store, GOOD, name=name, signature="")
        assert not apply(store, MEMBERS, name=name)
    assert not apply(store, GOOD, text="{", name="garbage", signature="")
    assert not held(store)
    assert store.rules(NAMESPACE).policies == (GOOD,)


def test_what_the_operator_signed_and_cannot_be_read_holds(store: PolicyStore) -> None:
    newer = dumps(policy("newer")).replace('"schemaVersion":1', '"schemaVersion":2')
    assert not apply(store, policy("newer"), text=newer)
    assert held(store)
    # A copy of it under another name does not, whatever cannot be read in it.
    store.remove_policy(NAMESPACE, "newer")
    assert not held(store)
    assert not apply(store, policy("newer"), text=newer, name="copy")
    assert not held(store)
    # Nor does anybody end the hold by writing over it.
    assert not apply(store, policy("newer"), text=newer)
    assert not apply(store, policy("newer"), signature="")
    assert held(store)


def test_without_keys_nothing_new_is_used_and_nothing_is_offered() -> None:
    store = PolicyStore(Metrics(), keys=PolicyKeys())
    assert not apply(store, GOOD)
    store.connected()
    assert store.rejection(NAMESPACE, "thermostat") is RejectionReason.NO_KEYS
    assert held(store)
    assert store.rules("office").held
    assert store.trust([KEY.public])
    assert held(store), "until what was refused is given again"
    assert apply(store, GOOD)
    store.connected()
    assert not held(store)
    assert not store.rules("office").held
    assert not store.trust([KEY.public])


def test_a_key_that_is_gone_signs_nothing_new_and_takes_nothing_away(store: PolicyStore) -> None:
    told: list[str] = []
    assert apply(store, GOOD)
    store.subscribe(lambda: told.append("changed"))
    assert store.trust([OTHER_KEY.public])
    assert told, "replicas tell each other which keys they know"
    assert store.key_ids == (OTHER_KEY.public.id,)
    assert not apply(store, GOOD)
    assert not apply(store, PAUSED)
    assert store.rules(NAMESPACE).policies == (GOOD,)
    assert apply(store, PAUSED, key=OTHER_KEY)
    store.trust([])
    assert store.rules(NAMESPACE).policies == (PAUSED,)
    assert not held(store)


def test_what_a_stolen_key_has_signed_bars_nothing_once_that_is_gone(store: PolicyStore) -> None:
    """Though it was of the highest numbers that there are."""
    assert apply(store, GOOD)
    store.trust([KEY.public, OTHER_KEY.public])
    assert apply(store, policy(epoch=2**53 - 1, sequence=2**53 - 1), key=OTHER_KEY)
    assert apply(store, later(MEMBERS, 2**53 - 1, 1), key=OTHER_KEY)
    assert not apply(store, PAUSED)
    store.trust([KEY.public])
    # Nor does it open the way for what is older by the key that stays.
    assert not apply(store, GOOD)
    assert store.epoch == 3
    saved = Saved()
    saved.loads(store._state().decode())
    again = signed_store()
    again._marks.restore(saved)
    for found in (store, again):
        assert apply(found, PAUSED)
        assert apply(found, MEMBERS)
        assert found.epoch == 3
        found.trust([])
        found.trust([KEY.public, OTHER_KEY.public])
        assert not apply(found, later(MEMBERS, 2**53 - 1, 1), key=OTHER_KEY)


def test_a_store_of_unsigned_policies_has_no_keys() -> None:
    with pytest.raises(ValueError, match="not signed"):
        PolicyStore(Metrics()).trust([KEY.public])


class TestRestarts:
    def _again(self, path: Path) -> tuple[PolicyStore, PolicyFiles]:
        files = PolicyFiles(path)
        store = PolicyStore(Metrics(), files, keys=PolicyKeys())
        store.load()
        return store, files

    async def test_keys_policies_and_marks_are_there_again(self, tmp_path: Path) -> None:
        store, files = self._again(tmp_path)
        store.trust([KEY.public])
        assert apply(store, GOOD)
        assert apply(store, MEMBERS)
        gone = policy("gone", epoch=9, sequence=1)
        assert apply(store, gone)
        store.remove_policy(NAMESPACE, "gone")
        store.connected()
        files.close()
        again, _ = self._again(tmp_path)
        assert again.policies() == [GOOD]
        assert again.key_ids == (KEY.public.id,)
        assert again.epoch == 9
        assert not apply(again, gone)
        assert not apply(again, policy(epoch=3, sequence=4))
        assert apply(again, GOOD), "the list gives it again"
        assert apply(again, PAUSED)

    async def test_one_whose_key_went_goes_on(self, tmp_path: Path) -> None:
        store, files = self._again(tmp_path)
        store.trust([KEY.public])
        assert apply(store, GOOD)
        store.trust([])
        store.connected()
        files.close()
        again, _ = self._again(tmp_path)
        assert again.key_ids == ()
        assert again.rules(NAMESPACE).policies == (GOOD,)
        assert not held(again)

    async def test_the_state_of_a_server_before_signatures_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "policies" / NAMESPACE).mkdir(parents=True)
        (tmp_path / "policies" / NAMESPACE / "thermostat.json").write_text(dumps(GOOD))
        (tmp_path / "policies.json").write_text('{"synced": true, "runs": {"home/x": 4}}')
        again, _ = self._again(tmp_path)
        assert again.policies() == [GOOD]
        assert again.run(NAMESPACE, "x") == 4
        again.trust([KEY.public])
        assert not apply(again, policy(epoch=3, sequence=4))

    async def test_nothing_is_removed_before_it_is_remembered(self, tmp_path: Path) -> None:
        store, files = self._again(tmp_path)
        state, saved = tmp_path / "policies.json", tmp_path / "policies" / NAMESPACE / "a.json"
        state.mkdir()
        store.trust([KEY.public])
        writing = asyncio.create_task(files.run())
        assert apply(store, policy("a", epoch=1))
        await until(saved.exists)
        store.remove_policy(NAMESPACE, "a")
        await until(lambda: not files._wake.is_set() and bool(files.failure))
        assert saved.exists()
        state.rmdir()
        await until(lambda: not saved.exists())
        assert json.loads(state.read_text())["written"] == {
            "policies/home/a": {KEY.public.id: [1, 0]}
        }
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def test_marks_are_bounded_and_nothing_forgotten_comes_back(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otaflux_server.policy_marks.REMEMBERED", 3)
    assert apply(store, GOOD)
    gone = [policy(f"gone-{i}", epoch=1, sequence=i) for i in range(6)]
    for item in gone:
        assert apply(store, item)
        store.remove_policy(NAMESPACE, item.name)
    assert len(store._marks.written) == 3
    for item in gone:
        assert not apply(store, item)
        assert store.rejection(NAMESPACE, item.name) is RejectionReason.REPLAYED
    assert apply(store, policy("gone-0", epoch=1, sequence=6))
    store.remove_policy(NAMESPACE, "thermostat")
    assert not apply(store, GOOD)
    # Nor does a restart bring it back.
    saved = Saved()
    saved.loads(store._state().decode())
    assert saved.forgotten == store._marks.forgotten
    again = signed_store()
    again._marks.restore(saved)
    assert not apply(again, gone[1])
    assert again.epoch == 3
