"""Threat "ConfigMap tampering", in a cluster: who may write ConfigMaps, and who notices.

That servers do not use what was changed is in `test_policies.py`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_operator.kubernetes.publications import KubernetesPublications
from otaflux_operator.signing import Signing
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy
from tests.operator.clusters import Rollout, eventually, operating, push
from tests.threats.test_secrets import allowed, installed

both = pytest.mark.parametrize("mitigated", [True, False])


@pytest.fixture
async def firmware(registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path) -> str:
    reference = f"{registry_v3.host}/{repository}"
    await push(oras, tmp_path, f"{reference}:1.0.0", b"firmware 1.0.0")
    return reference


def edited(good: Policy, _: dict[str, str]) -> dict[str, Any]:
    """By somebody who knows how policies are made, but has no key."""
    other = good.model_copy(update={"sequence": good.sequence + 1, "priority": 7})
    return {"data": {"policy.json": dumps(seal(other))}}


def relabelled(_: Policy, labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"labels": dict.fromkeys(labels)}}


@both
@pytest.mark.parametrize("change", [edited, relabelled])
async def test_it_is_told_and_taken_back(
    control_plane: ControlPlane,
    namespace: str,
    firmware: str,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
    change: Callable[[Policy, dict[str, str]], dict[str, Any]],
) -> None:
    """The mitigation is that the operator looks whether what is there is what it wrote."""
    if not mitigated:
        monkeypatch.setattr(Signing, "is_current", lambda *_: True)
        monkeypatch.setattr(KubernetesPublications, "_changed", lambda *_: "")
    rollout = Rollout(control_plane, namespace)
    async with operating(control_plane, namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        good, right = await rollout.policy(), await rollout.config_map()
        assert good is not None
        assert right is not None
        labels = right["metadata"]["labels"]
        path = f"/api/v1/namespaces/{namespace}/configmaps/otaflux-policy-thermostat"
        (await control_plane.request("PATCH", path, change(good, labels))).raise_for_status()

        def is_back(found: dict[str, Any] | None) -> bool:
            return found is not None and labels == found["metadata"].get("labels")

        if mitigated:
            await rollout.has_event("PolicyTampered")
            await eventually(rollout.config_map, is_back)
            await eventually(rollout.policy, lambda found: found is not None and not found.priority)
        else:
            # It looks, writes what is due, and says nothing.
            await rollout.apply(firmware, "1.0.0", priority=3)
            await eventually(
                rollout.policy, lambda found: found is not None and found.priority == 3
            )
            assert "PolicyTampered" not in await rollout.reasons()


@both
async def test_a_server_that_was_taken_over_writes_policies(
    control_plane: ControlPlane, namespace: str, mitigated: bool
) -> None:
    """For the others, and for those that come after it. Its Role lets it read them alone."""
    plane, system = control_plane, f"{namespace[:50]}-system"
    await plane.create_namespace(system)
    _, server = await installed(plane, system, namespace, narrow=True)
    if not mitigated:
        await plane.kubectl(
            *("create", "rolebinding", "server-writes", "-n", namespace),
            *("--role=otaflux-operator-watched", f"--serviceaccount={system}:otaflux-server"),
        )
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "otaflux-policy-thermostat", "namespace": namespace},
        "data": {"policy.json": "{}"},
    }
    apply = ("apply", "--server-side", "-n", namespace, "-f", "-")

    async def written() -> bool:
        return await allowed(plane, server, *apply, input=json.dumps(body))

    if mitigated:
        assert not await written()
    else:
        await eventually(written, bool)
