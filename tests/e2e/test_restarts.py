"""Restarting a part at any moment changes no answer; losing one keeps the last good answer."""

import json
import signal
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Registry
from tests.e2e.conftest import Push
from tests.e2e.installations import (
    Firmware,
    Installation,
    Process,
    approval,
    canaries,
    eventually,
    rollout,
)

OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0", 30_001)


def part(installation: Installation, name: str) -> Process:
    return installation.server if name == "server" else installation.operator


@pytest.mark.parametrize("name", ["operator", "server"])
async def test_killed_after_each_step_of_a_rollout_the_end_is_the_same(
    installation: Installation, push: Push, name: str
) -> None:
    process = part(installation, name)
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.3.2"))
    await process.restart()
    await installation.gets("kitchen-1", OLD)
    await installation.apply(rollout(repository, "1.3.2", approvals=[approval("1.3.2")]))
    await process.restart()
    await installation.phase("Completed", "1.3.2")
    await installation.apply(rollout(repository, "1.4.0"))
    await process.restart()
    await installation.gets("hall-1", OLD, never=(NEW,))
    await installation.gets("kitchen-1", NEW)
    await process.restart()
    await installation.gets("hall-1", OLD, never=(NEW,))
    await installation.apply(rollout(repository, "1.4.0", approvals=[approval("1.4.0")]))
    await process.restart()
    await installation.gets("hall-1", NEW)
    status = await installation.phase("Completed", "1.4.0")
    assert status["run"] == 2
    assert [(entry["version"], entry["result"]) for entry in status["history"]][:2] in (
        [("1.4.0", "Completed"), ("1.3.2", "Completed")],
        [("1.3.2", "Completed"), ("1.4.0", "Completed")],
    )


async def test_a_restarted_server_gives_the_pinned_bytes_or_none(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    await installation.server.restart()
    await installation.server_ready()
    assert await installation.firmware("kitchen-1") in (404, NEW.data)
    await installation.gets("kitchen-1", NEW)


async def test_a_server_serves_on_without_api_server_also_across_a_restart(
    fresh_control_plane: ControlPlane, push: Push, tmp_path: Path
) -> None:
    await fresh_control_plane.kubectl("create", "namespace", "home")
    async with Installation(fresh_control_plane, "home", tmp_path) as installation:
        repository = await push(NEW, "1.4.0")
        await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
        await installation.gets("kitchen-1", NEW)
        await fresh_control_plane.stop(kill=True)
        await installation.gets("kitchen-1", NEW)
        await installation.server.restart()
        await installation.gets("kitchen-1", NEW)
        assert await installation.version("hall-1") == 404
        await fresh_control_plane.start()
        # It could not renew its Lease: in a cluster the kubelet starts it again.
        await installation.operator.restart()
        await installation.apply(rollout(repository, "1.4.0", state="Paused"))
        await installation.gets("kitchen-1", 404)


async def test_the_registry_is_not_needed_for_what_is_released(
    installation: Installation, push: Push, registry_v3: Registry
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    await registry_v3.stop()
    try:
        await installation.server.restart()
        await installation.operator.restart()
        await installation.gets("kitchen-1", NEW)
        await installation.apply(rollout(repository, "1.4.0", state="Paused"))
        await installation.gets("kitchen-1", 404)
    finally:
        await registry_v3.start()


async def test_a_policy_edited_by_hand_is_not_used_and_is_written_again(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    name = "otaflux-policy-thermostat"
    found = json.loads(await installation.kubectl("get", "configmap", name, "-o", "json"))
    good = found["data"]["policy.json"]
    await installation.operator.stop(signal.SIGTERM)
    for edited in ("", "{", good.replace('"open":false', '"open":true')):
        patch = json.dumps({"data": {"policy.json": edited}})
        await installation.kubectl("patch", "configmap", name, "--type=merge", "-p", patch)

        async def rejected() -> str:
            path = f"/internal/v1/rollouts/{installation.namespace}/thermostat"
            reply = await installation.internal.get(path)
            return str(reply.json()["rejected"])

        await eventually(rejected, bool)
        assert await installation.version("kitchen-1") == NEW.answer
        assert await installation.version("hall-1") == 404
    await installation.operator.start()

    async def written() -> bool:
        text = await installation.kubectl("get", "configmap", name, "-o", "json")
        policy = json.loads(json.loads(text)["data"]["policy.json"])
        return [ring["open"] for ring in policy["rings"]] == [True, False]

    async def readable() -> bool:
        try:
            return await written()
        except ValueError:
            return False

    await eventually(readable, bool)
    await installation.gets("kitchen-1", NEW)


async def test_programs_end_cleanly_when_asked(installation: Installation) -> None:
    assert await installation.operator.stop(signal.SIGTERM) == 0
    assert await installation.server.stop(signal.SIGTERM) == 0
