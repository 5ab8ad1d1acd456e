"""Threat "ConfigMap tampering", by an operator that is not the leader any more."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_operator.kubernetes.leases import Lease, LeaseLost
from otaflux_operator.operating import Operator
from otaflux_operator.signing import Signing
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy, State
from tests.operator.clusters import Rollout, eventually, operating, push

both = pytest.mark.parametrize("mitigated", [True, False])


@pytest.fixture
async def firmware(registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path) -> str:
    reference = f"{registry_v3.host}/{repository}"
    await push(oras, tmp_path, f"{reference}:1.0.0", b"firmware 1.0.0")
    return reference


def is_paused(found: Policy | None) -> bool:
    return found is not None and found.state == "Paused"


@both
async def test_one_whose_lease_is_over_writes(
    control_plane: ControlPlane,
    namespace: str,
    firmware: str,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """Its process stood still, and nothing has told it yet."""
    rollout = Rollout(control_plane, namespace)
    asleep = asyncio.Event()

    async def keeps_sleeping(_: Lease) -> None:
        await asleep.wait()
        raise LeaseLost("woken at last")

    # The renewal is what would end it: here it comes too late in any case.
    monkeypatch.setattr(Lease, "keep", keeps_sleeping)
    if not mitigated:
        monkeypatch.setattr(Lease, "ensure", lambda _: None)
    async with operating(control_plane, namespace, lease_seconds=300) as running:
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        before = await rollout.config_map(), (await rollout.get())["status"]
        lease = running._lease
        assert lease is not None
        assert running.operator is not None
        now = lease._clock()
        monkeypatch.setattr(lease, "_clock", lambda: now + 1000)
        await rollout.apply(firmware, "1.0.0", state="Paused")
        if mitigated:
            # It saw the change, and wanted to write.
            await eventually(_troubled(running.operator), bool)
            assert (await rollout.config_map(), (await rollout.get())["status"]) == before
        else:
            await eventually(rollout.policy, is_paused)
        asleep.set()
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(running.ended(), 30)


@both
async def test_a_forged_policy_is_taken_over_by_the_operator(
    control_plane: ControlPlane,
    namespace: str,
    firmware: str,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """It goes on from what is published where that is ahead of the status, and signs it."""
    rollout = Rollout(control_plane, namespace)
    async with operating(control_plane, namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        good = await rollout.policy()
    assert good is not None
    if not mitigated:
        monkeypatch.setattr(Signing, "is_current", lambda *_: True)
    forged = seal(good.model_copy(update={"run": 99, "state": State.ABORTED}))
    path = f"/api/v1/namespaces/{namespace}/configmaps/otaflux-policy-thermostat"
    await control_plane.request("PATCH", path, {"data": {"policy.json": dumps(forged)}})
    async with operating(control_plane, namespace):
        await rollout.apply(firmware, "1.0.0", priority=3)
        found = await eventually(rollout.policy, lambda p: p is not None and p.priority == 3)
    assert found is not None
    assert (found.run >= 99) is not mitigated


def _troubled(operator: Operator) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return any("is not held" in why for why in operator._told.values())

    return look
