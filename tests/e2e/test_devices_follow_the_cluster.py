"""`kubectl apply` decides what a device downloads: every change that a user can make reaches it."""

import asyncio

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from tests.e2e.conftest import Push
from tests.e2e.installations import Firmware, Installation, approval, canaries, eventually, rollout

OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0", 30_001)


async def released(installation: Installation, push: Push) -> str:
    """1.3.2 has completed, 1.4.0 is with the canaries; → the repository."""
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(
        canaries("kitchen-1", "lab-*"), rollout(repository, "1.3.2", approvals=[approval("1.3.2")])
    )
    await installation.phase("Completed", "1.3.2")
    await installation.apply(rollout(repository, "1.4.0"))
    await installation.phase("AwaitingApproval", "1.4.0")
    return repository


async def test_curl_gets_what_kubectl_applied(installation: Installation, push: Push) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(rollout(repository, "1.4.0"), canaries("kitchen-1"))
    await installation.gets("kitchen-1", NEW)

    async def curl(path: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            "curl", "--silent", "--fail", f"{installation.root_url}{path}",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return (await process.communicate())[0]

    assert (await curl("/version?device=kitchen-1")).decode() == NEW.answer
    assert await curl("/firmware?device=kitchen-1") == NEW.data


async def test_a_closed_ring_gets_nothing_without_a_stable_release(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    assert await installation.version("hall-1") == 404
    assert await installation.firmware("hall-1") == 404


async def test_a_closed_ring_gets_the_stable_release(
    installation: Installation, push: Push
) -> None:
    await released(installation, push)
    await installation.gets("lab-7", NEW)
    await installation.gets("hall-1", OLD, never=(NEW,))


async def test_a_new_tag_reaches_devices(installation: Installation, push: Push) -> None:
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.3.2"))
    await installation.gets("kitchen-1", OLD)
    await installation.kubectl(
        "patch", "fwr", "thermostat", "--type=merge", "-p", '{"spec":{"artifact":{"tag":"1.4.0"}}}'
    )
    await installation.gets("kitchen-1", NEW)
    status = await installation.phase("AwaitingApproval", "1.4.0")
    assert [entry["result"] for entry in status["history"]] == ["Superseded"]


async def test_a_tag_that_moves_is_followed_within_its_interval(
    installation: Installation, push: Push
) -> None:
    repository = await push(OLD, "latest-build")
    await installation.apply(
        canaries("kitchen-1"), rollout(repository, "latest-build", artifact={"interval": "1s"})
    )

    async def size() -> int:
        answer = await installation.version("kitchen-1")
        return int(answer.split("\n")[2]) if isinstance(answer, str) else 0

    await eventually(size, lambda got: got == len(OLD.data))
    await push(NEW, "latest-build")
    await eventually(size, lambda got: got == len(NEW.data))
    assert await installation.firmware("kitchen-1") == NEW.data


async def test_an_approval_opens_the_next_ring(installation: Installation, push: Push) -> None:
    repository = await released(installation, push)
    await installation.apply(rollout(repository, "1.4.0", approvals=[approval("9.9.9")]))
    await installation.observed()
    await installation.gets("hall-1", OLD, never=(NEW,))
    await installation.apply(rollout(repository, "1.4.0", approvals=[approval("1.4.0")]))
    await installation.gets("hall-1", NEW)
    status = await installation.phase("Completed", "1.4.0")
    assert status["stableRelease"]["version"] == "1.4.0"
    await installation.apply(rollout(repository, "1.4.0"))
    await installation.observed()
    assert await installation.version("hall-1") == NEW.answer


async def test_an_approval_may_come_with_the_tag(installation: Installation, push: Push) -> None:
    await push(NEW, "1.4.0")
    repository = await push(OLD, "1.3.2")
    await installation.apply(rollout(repository, "1.3.2", approvals=[approval("1.3.2")]))
    await installation.phase("Completed", "1.3.2")
    await installation.apply(rollout(repository, "1.4.0", approvals=[approval("1.4.0")]))
    await installation.gets("hall-1", NEW)


async def test_a_pause_and_its_end_reach_devices(installation: Installation, push: Push) -> None:
    repository = await released(installation, push)
    await installation.gets("kitchen-1", NEW)
    await installation.gets("lab-1", NEW)
    await installation.apply(rollout(repository, "1.4.0", state="Paused"))
    await installation.gets("kitchen-1", 404)
    assert await installation.firmware("lab-1") == 404, "a pause breaks a pin"
    assert await installation.version("hall-1") == 404
    await installation.phase("Paused")
    await installation.apply(rollout(repository, "1.4.0", state="Active"))
    await installation.gets("kitchen-1", NEW)


async def test_an_abort_reaches_devices_and_is_not_revived(
    installation: Installation, push: Push
) -> None:
    repository = await released(installation, push)
    await installation.apply(rollout(repository, "1.4.0", state="Aborted"))
    await installation.gets("kitchen-1", 404)
    await installation.phase("Aborted")
    await installation.apply(rollout(repository, "1.4.0", state="Active"))
    await installation.observed()
    assert await installation.version("kitchen-1") == 404
    await installation.apply(rollout(repository, "1.4.0", retryToken="again"))
    await installation.gets("kitchen-1", NEW)


async def test_a_reverted_tag_is_a_rollback(installation: Installation, push: Push) -> None:
    repository = await released(installation, push)
    await installation.gets("kitchen-1", NEW)
    await installation.apply(rollout(repository, "1.3.2"))
    await installation.gets("kitchen-1", OLD)
    await installation.gets("hall-1", OLD, never=(NEW,))


@pytest.mark.parametrize("cascade", ["background", "orphan", "foreground"])
async def test_deleting_the_rollout_reaches_devices_without_a_garbage_collector(
    installation: Installation, push: Push, cascade: str
) -> None:
    await released(installation, push)
    await installation.gets("kitchen-1", NEW)
    await installation.kubectl(
        "delete", "fwr", "thermostat", f"--cascade={cascade}", "--wait=false"
    )
    await installation.gets("kitchen-1", 404)
    assert await installation.version("hall-1") == 404

    async def policies() -> str:
        return await installation.kubectl(
            "get", "configmap", "-l", "otaflux.io/component=policy", "-o", "name"
        )

    await eventually(policies, lambda names: names == "")


async def test_deleting_the_rollout_while_the_operator_is_down(
    installation: Installation, push: Push
) -> None:
    await released(installation, push)
    await installation.operator.stop()
    await installation.kubectl("delete", "fwr", "thermostat", "--cascade=orphan", "--wait=false")
    assert await installation.version("kitchen-1") == NEW.answer
    await installation.operator.start()
    await installation.gets("kitchen-1", 404)


async def test_the_garbage_collector_deletes_the_policy_where_no_operator_runs(
    garbage_collector: ControlPlane, installation: Installation, push: Push
) -> None:
    await released(installation, push)
    await installation.operator.stop()
    await installation.kubectl("delete", "fwr", "thermostat")
    await installation.gets("kitchen-1", 404)


async def test_moving_a_device_between_groups_moves_it_between_rings(
    installation: Installation, push: Push
) -> None:
    await released(installation, push)
    await installation.gets("hall-1", OLD, never=(NEW,))
    await installation.apply(canaries("kitchen-1", "hall-1"))
    await installation.gets("hall-1", NEW)


async def test_a_rollout_created_again_inherits_nothing(
    installation: Installation, push: Push
) -> None:
    repository = await released(installation, push)
    before = (await installation.rollout())["status"]["run"]
    await installation.kubectl("delete", "fwr", "thermostat")
    await installation.gets("kitchen-1", 404)
    await installation.apply(rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    status = await installation.phase("AwaitingApproval", "1.4.0")
    assert status["run"] > before
    assert await installation.version("hall-1") == 404, "the stable release went with the object"
