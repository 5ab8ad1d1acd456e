"""The operator on a real API server and a real registry."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_operator.operating import Operator
from otaflux_policy.canonical import loads_group
from otaflux_policy.credentials import RegistryAccess
from otaflux_policy.groups import Group
from otaflux_policy.signing import is_entry_key
from tests.operator.clusters import (
    Rollout,
    config_map,
    docker_config_secret,
    eventually,
    operating,
    push,
)

UNJUDGED = [{"name": "canary", "percent": 10}, {"name": "fleet"}]


async def test_from_kubectl_apply_to_a_completed_rollout(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.kubectl(
            "wait", "--for=condition=Completed", "fwr/thermostat", "--timeout=30s"
        )
        await rollout.completes("1.0.0")
        found = await rollout.get()
        policy, published = await rollout.policy(), await rollout.config_map()
    assert policy is not None
    assert published is not None
    assert policy.stable == policy.target
    assert policy.stable is not None
    assert policy.stable.firmware.size == len(b"firmware 1.0.0")
    assert policy.stable.firmware.repository == firmware
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert found["status"]["policy"]["revision"] == policy.revision
    assert found["status"]["policy"]["servedRevision"] == policy.revision
    metadata = published["metadata"]
    assert metadata["labels"] == {
        "app.kubernetes.io/managed-by": "otaflux",
        "otaflux.io/component": "policy",
    }
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("FirmwareRollout", "thermostat")
    assert owner["uid"] == found["metadata"]["uid"]
    (fields,) = metadata["managedFields"]
    assert (fields["manager"], fields["operation"]) == ("otaflux-operator", "Apply")
    assert found["metadata"].get("finalizers") is None
    annotations = set(found["metadata"].get("annotations", {}))
    assert annotations == {"kubectl.kubernetes.io/last-applied-configuration"}


async def test_what_is_settled_is_not_written_again(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace) as running:
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        before = await rollout.get(), await rollout.config_map()
        operator = running.operator
        assert operator is not None
        swept = operator.swept_at
        await rollout.kubectl("label", "fwr", "thermostat", "touched=yes")
        await eventually(_swept(operator), lambda at: at != swept)
        swept = operator.swept_at
        await eventually(_swept(operator), lambda at: at != swept)
        after = await rollout.get(), await rollout.config_map()
    assert before[1] == after[1]
    assert before[0]["status"] == after[0]["status"]


async def test_a_changed_tag_pause_and_deletion_reach_the_policy(
    rollout: Rollout, firmware: str
) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await rollout.apply(firmware, "1.1.0", rings=UNJUDGED)
        await rollout.has("Ready", "True/Inconclusive")
        await rollout.apply(firmware, "1.1.0", rings=UNJUDGED, state="Paused")
        await eventually(rollout.policy, lambda p: p is not None and p.state == "Paused")
        await rollout.kubectl("delete", "fwr", "thermostat")
        await rollout.is_withdrawn()


async def test_the_status_is_replaced_not_merged(rollout: Rollout, firmware: str) -> None:
    """1.0.0 has a `finishedAt`, the candidate goes: nothing of them may stay in 1.1.0."""
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await rollout.apply(firmware, "1.1.0", rings=UNJUDGED)
        await rollout.has("Ready", "True/Inconclusive")
        status = (await rollout.get())["status"]
    assert status["release"]["version"] == "1.1.0"
    assert "finishedAt" not in status["release"]
    assert "candidate" not in status
    assert status["stableRelease"]["version"] == "1.0.0"


@pytest.mark.parametrize(
    "change",
    [
        '{"data": {"policy.json": "{}"}}',
        '{"data": {"policy.json": null}}',
        '{"data": {"policy.json.sig": "{}"}}',
        '{"immutable": true}',
        '{"metadata": {"finalizers": ["example.com/mine"]}}',
        '{"metadata": {"labels": {"otaflux.io/component": "other"}}}',
        '{"metadata": {"labels": null}}',
        '{"metadata": {"ownerReferences": null}}',
    ],
)
async def test_a_policy_that_somebody_changed_is_repaired(
    rollout: Rollout, firmware: str, change: str
) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        right = await rollout.config_map()
        assert right is not None
        await rollout.kubectl(
            "patch", "configmap", "otaflux-policy-thermostat", "--type=merge", "-p", change
        )
        metadata = right["metadata"]

        def repaired(found: dict[str, Any] | None) -> bool:
            if found is None:
                return False
            known = found["metadata"]
            return (
                {"policy.json", "policy.json.sig"} <= set(found.get("data") or {})
                and "{}" not in found["data"].values()
                and known.get("labels") == metadata["labels"]
                and known.get("ownerReferences") == metadata["ownerReferences"]
                and not found.get("immutable")
                and not known.get("finalizers")
            )

        await eventually(rollout.config_map, repaired)
        policy = await rollout.policy()
        assert policy is not None
        assert policy.stable is not None
        assert [ring.open for ring in policy.rings] == [True, True]
        await rollout.has_event("PolicyTampered")


async def test_a_policy_that_somebody_deleted_is_published_again(
    rollout: Rollout, firmware: str
) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        before = await rollout.policy()
        await rollout.kubectl("delete", "configmap", "otaflux-policy-thermostat")
        after = await eventually(rollout.policy, lambda policy: policy is not None)
    assert before is not None
    assert after is not None
    assert (after.run, after.target, after.stable) == (before.run, before.target, before.stable)
    assert after.sequence > before.sequence


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
async def test_deletion_withdraws_without_a_garbage_collector(
    rollout: Rollout, firmware: str, cascade: str
) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await rollout.kubectl("delete", "fwr", "thermostat", f"--cascade={cascade}", "--wait=false")
        await rollout.is_withdrawn()


async def test_orphans_are_withdrawn_by_the_operator_alone(
    garbage_collector: ControlPlane, rollout: Rollout, firmware: str
) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
    await rollout.kubectl("delete", "fwr", "thermostat", "--cascade=orphan")
    left = await rollout.config_map()
    assert left is not None
    assert left["metadata"].get("ownerReferences") is None
    async with operating(rollout.plane, rollout.namespace):
        await rollout.is_withdrawn()


async def test_a_recreated_rollout_inherits_nothing(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
    await rollout.kubectl("delete", "fwr", "thermostat")
    await rollout.apply(firmware, "1.1.0")
    assert await rollout.config_map() is not None, "there is no garbage collector"
    async with operating(rollout.plane, rollout.namespace):
        await rollout.completes("1.1.0")
        found = await rollout.get()
        published = await rollout.config_map()
    assert (found["status"]["run"], len(found["status"]["history"])) == (2, 1)
    assert published is not None
    (owner,) = published["metadata"]["ownerReferences"]
    assert owner["uid"] == found["metadata"]["uid"]


async def test_a_restart_changes_nothing(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "1.0.0", rings=UNJUDGED)
        await rollout.has("Ready", "True/Inconclusive")
        before = await rollout.config_map(), (await rollout.get())["status"]
    async with operating(rollout.plane, rollout.namespace) as running:
        operator = running.operator
        assert operator is not None
        await eventually(_swept(operator), lambda at: at is not None)
        swept = operator.swept_at
        await eventually(_swept(operator), lambda at: at != swept)
        after = await rollout.config_map(), (await rollout.get())["status"]
    assert before == after


async def test_events_are_told_once_and_counted_up(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace):
        await rollout.apply(firmware, "9.9.9")
        await rollout.has("Stalled", "True/ManifestNotFound")
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await rollout.apply(firmware, "9.9.9")
        await rollout.has("Stalled", "True/ManifestNotFound")

        def counts(events: list[dict[str, object]]) -> dict[object, list[object]]:
            found: dict[object, list[object]] = {}
            for event in events:
                found.setdefault(event["reason"], []).append(event["count"])
            return found

        events = await eventually(
            rollout.events, lambda events: counts(events).get("ManifestNotFound") == [2]
        )
    assert counts(events)["Completed"] == [1]
    missing = next(event for event in events if event["reason"] == "ManifestNotFound")
    assert missing["type"] == "Warning"
    assert "9.9.9" in missing["message"]
    assert missing["source"] == {"component": "otaflux-operator"}
    described = await rollout.kubectl("describe", "fwr", "thermostat")
    assert "ManifestNotFound" in described


async def test_credentials_reach_the_one_secret_and_nothing_else(
    rollout: Rollout,
    registry_v3: Registry,
    oras: Oras,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    password = "a-very-secret-password"
    async with Registry(users={"robot": password}) as registry:
        await oras(
            "login", "--plain-http", registry.host, "-u", "robot", "--password-stdin",
            input=password,
        )  # fmt: skip
        repository = f"{registry.host}/firmware/thermostat"
        await push(oras, tmp_path, f"{repository}:1.0.0", b"firmware")
        artifact = {"secretRef": {"name": "robot"}}
        with structlog.testing.capture_logs() as logs:
            async with operating(rollout.plane, rollout.namespace):
                await rollout.apply(repository, "1.0.0")
                await rollout.has("ArtifactResolved", "False/Unauthorized")
                await rollout.apply(repository, "1.0.0", artifact=artifact)
                await rollout.has("ArtifactResolved", "False/SecretNotFound")
                secret = docker_config_secret("robot", registry.host, "robot", password)
                await rollout.kubectl("apply", "-f", "-", input=secret)
                await rollout.completes("1.0.0")
                policy = await rollout.policy()
                path = f"/api/v1/namespaces/{rollout.namespace}/secrets/otaflux-pull-credentials"
                found = (await rollout.plane.request("GET", path)).raise_for_status().json()
                told = str([await rollout.get(), await rollout.config_map()])
                told += str(await rollout.events())
                await rollout.kubectl("delete", "fwr", "thermostat")
                await rollout.is_withdrawn()

                async def entries() -> dict[str, str]:
                    response = await rollout.plane.request("GET", path)
                    data: dict[str, str] = response.raise_for_status().json().get("data") or {}
                    return data

                await eventually(entries, lambda data: all(map(is_entry_key, data)))
    assert policy is not None
    assert policy.stable is not None
    entry = policy.stable.firmware.credentials
    assert entry is not None
    assert [name for name in found["data"] if not is_entry_key(name)] == [f"{entry}.json"]
    access = RegistryAccess.loads(base64.b64decode(found["data"][f"{entry}.json"]).decode())
    assert access == RegistryAccess(username="robot", password=password)
    encoded = base64.b64encode(f"robot:{password}".encode()).decode()
    for secret in (password, encoded):
        assert secret not in told + str(logs) + caplog.text


async def test_groups(control_plane: ControlPlane, namespace: str) -> None:
    def manifest(name: str, names: str, ring: str) -> str:
        return f"""
        apiVersion: otaflux.io/v1alpha1
        kind: DeviceGroup
        metadata: {{name: {name}}}
        spec: {{names: [{names}], labels: {{ring: {ring}}}, model: thermostat-v2}}
        """

    async def apply(*arguments: str) -> None:
        await control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=manifest(*arguments))

    async def condition(name: str, type_: str) -> str:
        found = await control_plane.kubectl_json("get", "dg", name, "-n", namespace)
        known = found.get("status", {}).get("conditions", ())
        return next((f"{c['status']}/{c['reason']}" for c in known if c["type"] == type_), "")

    async with operating(control_plane, namespace):
        await apply("canaries", "kitchen-1", "canary")
        await eventually(
            lambda: condition("canaries", "Ready"), lambda found: found == "True/Published"
        )
        published = await config_map(control_plane, namespace, "otaflux-group-canaries")
        assert published is not None
        group = loads_group(published["data"]["group.json"], namespace=namespace, name="canaries")
        assert isinstance(group, Group)
        assert (group.names, group.labels) == (("kitchen-1",), {"ring": "canary"})
        await apply("everything", '"*"', "early")
        await eventually(
            lambda: condition("everything", "LabelConflict"),
            lambda found: found == "True/LabelConflict",
        )
        await control_plane.kubectl("delete", "dg", "canaries", "-n", namespace)
        await eventually(
            lambda: config_map(control_plane, namespace, "otaflux-group-canaries"),
            lambda found: found is None,
        )
        await eventually(
            lambda: condition("everything", "LabelConflict"),
            lambda found: found == "False/NoConflict",
        )


async def test_servers_that_do_not_answer_are_named(rollout: Rollout, firmware: str) -> None:
    async with operating(rollout.plane, rollout.namespace, server_url="http://127.0.0.1:9"):
        await rollout.apply(firmware, "1.0.0")
        await rollout.has("PolicyServed", "Unknown/ServerUnreachable")
        policy = await rollout.policy()
        assert policy is not None
        assert policy.target is None
        await rollout.apply(firmware, "1.0.0", state="Paused")
        await eventually(rollout.policy, lambda p: p is not None and p.state == "Paused")


async def test_it_goes_on_after_the_api_server_was_away(
    fresh_control_plane: ControlPlane, firmware: str
) -> None:
    await fresh_control_plane.create_namespace("home")
    rollout = Rollout(fresh_control_plane, "home")
    async with operating(fresh_control_plane, "home", lease_seconds=120) as running:
        await rollout.apply(firmware, "1.0.0")
        await rollout.completes("1.0.0")
        await fresh_control_plane.restart_api_server()
        await rollout.apply(firmware, "1.1.0")
        await rollout.completes("1.1.0")
        ended = asyncio.ensure_future(running.ended())
        await asyncio.sleep(0)
        assert not ended.done()
        ended.cancel()


def _swept(operator: Operator) -> Callable[[], Awaitable[float | None]]:
    async def swept() -> float | None:
        return operator.swept_at

    return swept
