"""Threat "ConfigMap tampering": whoever may write ConfigMaps changes nothing for devices.

What an attacker has: every ConfigMap that was ever published, with its signature, and the right to
write what they like. Without the mitigation that each test names, the attack succeeds.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_policy import canonical
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy, State
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason
from otaflux_server import watching
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_keys import PolicyKeys
from otaflux_server.policy_marks import PolicyMarks
from otaflux_server.serving import UpdateServer
from tests.server import test_kubernetes
from tests.server.fleets import (
    NAMESPACE,
    MemorySource,
    firmware,
    group,
    policy,
    release,
    settings,
    until,
)
from tests.server.signatures import KEY, OTHER_KEY, apply, config_map

OLD, NEW = firmware("1.3.2"), firmware("1.4.0")
CANARIES = {"matchLabels": {"ring": "canary"}}

both = pytest.mark.parametrize("mitigated", [True, False])


class SignedSource:
    """Gives nothing by itself: the test is whoever writes ConfigMaps."""

    def __init__(self) -> None:
        self.keys: PolicyKeys = PolicyKeys()

    async def run(self, store: PolicyStore) -> None:
        store.trust([KEY.public])
        store.connected()
        await asyncio.Event().wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UpdateServer]:
    artifacts = MemorySource()
    for content in (OLD, NEW):
        artifacts.add(content)
    options = settings(tmp_path)
    async with UpdateServer(options, source=SignedSource(), artifact_source=artifacts) as server:
        await until(lambda: bool(server.policies.key_ids))
        yield server


def published(version: str, sequence: int, *, epoch: int = 2, **fields: Any) -> Policy:
    content = {"1.3.2": OLD, "1.4.0": NEW}[version]
    return policy(target=release(version, content), epoch=epoch, sequence=sequence, **fields)


def members(sequence: int, *names: str) -> Group:
    item = group("canaries", names=names, labels={"ring": "canary"})
    return seal(item.model_copy(update={"epoch": 2, "sequence": sequence}))


async def told(server: UpdateServer, device: str = "kitchen-1") -> str:
    """The version that the device is told, else why none."""
    async with httpx.AsyncClient(base_url=server.device_url) as client:
        answer = await client.get("/version", params={"device": device})
    return answer.text.partition("\n")[0]


async def becomes(server: UpdateServer, wanted: str) -> None:
    async def answered() -> bool:
        return wanted in await told(server)

    await until(answered)


async def after(
    server: UpdateServer, mitigated: bool, before: str, attacked: str, name: str = "thermostat"
) -> None:
    """What the device is told once the attack was made, and whether it was noticed."""
    if not mitigated:
        await becomes(server, attacked)
        return
    assert before in await told(server)
    rejected = server.policies.rejections()
    assert any(key[1] == name for _, key in rejected), rejected


def without_signatures(monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    if not mitigated:
        monkeypatch.setattr(PolicyKeys, "verify", lambda *_: None)


def without_marks(monkeypatch: pytest.MonkeyPatch, mitigated: bool) -> None:
    if not mitigated:
        monkeypatch.setattr(PolicyMarks, "check", lambda *_: None)


@both
@pytest.mark.parametrize("signature", ["the old one", "none", "of another key"])
async def test_an_edited_policy(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool, signature: str
) -> None:
    """With a revision that fits, for whoever can write JSON can hash it."""
    without_signatures(monkeypatch, mitigated)
    good, edited = published("1.3.2", 1), published("1.4.0", 2)
    assert apply(server.policies, good)
    await becomes(server, "1.3.2")
    made = {
        "the old one": KEY.sign(Policy, dumps(good)),
        "none": "",
        "of another key": OTHER_KEY.sign(Policy, dumps(edited)),
    }
    apply(server.policies, edited, signature=made[signature])
    await after(server, mitigated, "1.3.2", "1.4.0")


@both
async def test_a_copy_under_another_name(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Of a policy that is published for other devices, with its signature."""
    if not mitigated:
        monkeypatch.setattr(canonical, "_is_of", lambda *_: True)
    assert apply(server.policies, published("1.3.2", 1))
    await becomes(server, "1.3.2")
    other = published("1.4.0", 2, device_selector={"names": ["lab-*", "kitchen-1"]}, priority=-1)
    other = seal(other.model_copy(update={"name": "lab"}))
    assert apply(server.policies, other)
    assert "1.3.2" in await told(server)
    apply(server.policies, other, name="thermostat")
    await after(server, mitigated, "1.3.2", "1.4.0")


@both
@pytest.mark.parametrize("deleted", [False, True], ids=["over the new one", "after deleting it"])
async def test_an_old_policy_put_back(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool, deleted: bool
) -> None:
    """The operator withdrew a release; the policy from before is signed by the right key."""
    without_marks(monkeypatch, mitigated)
    old, new = published("1.4.0", 1), published("1.4.0", 2, state=State.ABORTED)
    assert apply(server.policies, old)
    await becomes(server, "1.4.0")
    assert apply(server.policies, new)
    before = "Aborted"
    await becomes(server, before)
    if deleted:
        server.policies.remove_policy(NAMESPACE, "thermostat")
        before = "NoMatch"
        await becomes(server, before)
        apply(server.policies, new)
        assert (before in await told(server)) is mitigated
    apply(server.policies, old)
    await after(server, mitigated, before, "1.4.0")
    if mitigated:
        found = server.policies.rejection(NAMESPACE, "thermostat")
        assert found is RejectionReason.REPLAYED


@both
async def test_a_stale_leader(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """An operator that lost the Lease without knowing writes last, with the right key."""
    without_marks(monkeypatch, mitigated)
    assert apply(server.policies, published("1.4.0", 1, epoch=3, state=State.ABORTED))
    await becomes(server, "Aborted")
    apply(server.policies, published("1.4.0", 2_000_000_000_000, epoch=2))
    await after(server, mitigated, "Aborted", "1.4.0")


@both
async def test_an_edited_group(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Labels decide which devices are canaries."""
    without_signatures(monkeypatch, mitigated)
    assert apply(server.policies, published("1.4.0", 1, device_selector=CANARIES))
    assert apply(server.policies, members(1, "lab-1"))
    assert "NoMatch" in await told(server)
    apply(server.policies, members(2, "lab-1", "kitchen-1"), key=OTHER_KEY)
    await after(server, mitigated, "NoMatch", "1.4.0", "canaries")


@both
async def test_an_old_group_put_back(
    server: UpdateServer, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    without_marks(monkeypatch, mitigated)
    assert apply(server.policies, published("1.4.0", 1, device_selector=CANARIES))
    assert apply(server.policies, members(1, "kitchen-1"))
    assert apply(server.policies, members(2, "lab-1"))
    assert "NoMatch" in await told(server)
    apply(server.policies, members(1, "kitchen-1"))
    await after(server, mitigated, "NoMatch", "1.4.0", "canaries")


@both
async def test_another_put_in_the_place_of_one_that_was_deleted(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """So that what its user withdrew, with its rollout, is served on for ever."""
    made, ask = asyncio.Event(), watching._object

    async def late(*args: Any) -> Any:
        await made.wait()
        return await ask(*args)

    monkeypatch.setattr(watching, "_object", late)
    if not mitigated:
        monkeypatch.setattr(watching, "_is_same", lambda *_: True)
    good = config_map(policy(namespace=namespace, target=release("1.4.0", test_kubernetes.CONTENT)))
    elsewhere = {"names": ["lab-1"]}
    last = config_map(policy("last", namespace=namespace, device_selector=elsewhere))
    await test_kubernetes.apply(control_plane, good)
    async with test_kubernetes.serving(control_plane, namespace, tmp_path) as server:
        await becomes(server, "1.4.0")
        name = good["metadata"]["name"]
        await control_plane.kubectl("delete", "configmap", name, "-n", namespace)
        await control_plane.kubectl(
            "create", "configmap", name, "-n", namespace, "--from-literal=policy.json={}"
        )
        made.set()
        await test_kubernetes.apply(control_plane, last)
        await until(lambda: server.policies.policy(namespace, "last") is not None)
        await becomes(server, "NoMatch" if mitigated else "1.4.0")


@both
async def test_labels_taken_off(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """The watch says of it what it says of one that was deleted; a list leaves it out."""

    async def nowhere(*_: object) -> None:
        return None

    if not mitigated:
        monkeypatch.setattr(watching, "_object", nowhere)
    monkeypatch.setattr(watching, "_UNLABELLED_SECONDS", 1)
    good = config_map(policy(namespace=namespace, target=release("1.4.0", test_kubernetes.CONTENT)))
    elsewhere = {"names": ["lab-1"]}
    last = config_map(policy("last", namespace=namespace, device_selector=elsewhere))
    await test_kubernetes.apply(control_plane, good)
    async with test_kubernetes.serving(control_plane, namespace, tmp_path) as server:
        await becomes(server, "1.4.0")
        patch = '{"metadata": {"labels": null}}'
        name = good["metadata"]["name"]
        await control_plane.kubectl(
            "patch", "configmap", name, "-n", namespace, "--type=merge", "-p", patch
        )
        if not mitigated:
            await becomes(server, "NoMatch")
            return
        # What comes after it is known, so it was seen.
        await test_kubernetes.apply(control_plane, last)
        await until(lambda: server.policies.policy(namespace, "last") is not None)
        assert "1.4.0" in await told(server)
    # Nor does a restart forget it.
    async with test_kubernetes.serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: not server.policies.disconnection)
        assert "1.4.0" in await told(server)
        # Deleted without its labels, of which no watch tells.
        await control_plane.kubectl("delete", "configmap", name, "-n", namespace)
        await becomes(server, "NoMatch")
