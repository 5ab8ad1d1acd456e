"""What stops a rollout acts at once: on the next poll of every device, and on what it downloads."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from tests.e2e.conftest import Push
from tests.e2e.installations import (
    Firmware,
    Installation,
    approval,
    canaries,
    condition,
    eventually,
    rollout,
)
from tests.e2e.sites import QUICK

OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0", 8 * 1024 * 1024)
MEMBERS = tuple(f"kitchen-{number}" for number in range(1, 7))


@pytest.fixture
async def installation(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    async with Installation(control_plane, namespace, tmp_path, settings=QUICK) as installed:
        yield installed


def manifest(repository: str, tag: str, *, action: str = "Pause", **spec: Any) -> dict[str, Any]:
    """Canaries of whom a third may fail, then everyone."""
    made = rollout(repository, tag, **spec)
    canary, fleet = made["spec"]["rings"]
    canary["success"] = {"minUpdatedPercent": 100, "minDevices": len(MEMBERS)}
    canary["failure"] = {"maxPercent": 33, "minSample": 3, "action": action}
    fleet.pop("gate")
    return made


async def post(installation: Installation, path: str, **body: Any) -> dict[str, Any]:
    reply = await installation.http.post(f"{installation.url}/api/v1/{path}", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


async def offered(installation: Installation, device: str, version: str = "1.3.2") -> str | None:
    """The version that the device is offered now, or None."""
    answer = await post(installation, "poll", device=device, version=version)
    update = answer["update"]
    return None if update is None else str(update["version"])


async def is_offered(
    installation: Installation, device: str, release: str, *, version: str = "1.3.2"
) -> None:
    """Waits until the device, which runs `version`, is offered the release."""
    await eventually(lambda: offered(installation, device, version), lambda found: found == release)


async def reason(installation: Installation, device: str) -> str:
    answer = await post(installation, "poll", device=device, version="1.3.2")
    return str(answer["reason"])


async def fails(installation: Installation, device: str) -> None:
    await post(installation, "report", device=device, release="1.4.0", state="Failed", code="flash")


async def under_way(installation: Installation, push: Push, **spec: Any) -> str:
    """1.3.2 is stable, 1.4.0 is with the canaries; → the repository."""
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    await installation.apply(
        canaries(*MEMBERS), rollout(repository, "1.3.2", approvals=[approval("1.3.2")])
    )
    await installation.phase("Completed", "1.3.2")
    await installation.apply(manifest(repository, "1.4.0", **spec))
    for device in MEMBERS:
        await is_offered(installation, device, "1.4.0")
    return repository


class SlowReader:
    """A device that takes its download a little at a time."""

    def __init__(self, installation: Installation, device: str) -> None:
        self._installation, self._device = installation, device
        self.received = 0
        self.whole = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._read())

        async def look() -> int:
            return self.received

        await eventually(look, lambda size: size > 0)

    async def ended(self) -> bool:
        """Waits for the end; whether all of it came."""
        assert self._task is not None
        async with asyncio.timeout(30):
            with suppress(httpx.TransportError):
                await self._task
        return self.whole

    async def _read(self) -> None:
        url, query = f"{self._installation.url}/firmware", {"device": self._device}
        async with (
            httpx.AsyncClient(timeout=30) as http,
            http.stream("GET", url, params=query) as reply,
        ):
            assert reply.status_code == 200
            async for part in reply.aiter_bytes(64 * 1024):
                self.received += len(part)
                await asyncio.sleep(0.02)
            self.whole = self.received == len(NEW.data)


async def slow_reader(installation: Installation, device: str) -> SlowReader:
    assert await installation.version(device) == NEW.answer
    reader = SlowReader(installation, device)
    await reader.start()
    return reader


async def test_a_pause_lets_a_download_finish(installation: Installation, push: Push) -> None:
    repository = await under_way(installation, push)
    reader = await slow_reader(installation, MEMBERS[0])
    await installation.apply(manifest(repository, "1.4.0", state="Paused"))
    await installation.gets(MEMBERS[1], 404)
    assert await installation.firmware(MEMBERS[0]) == 404, "a pause breaks a pin"
    assert await reader.ended()


async def test_an_abort_cuts_a_download(installation: Installation, push: Push) -> None:
    repository = await under_way(installation, push)
    reader = await slow_reader(installation, MEMBERS[0])
    await installation.apply(manifest(repository, "1.4.0", state="Aborted"))
    assert not await reader.ended()
    for device in MEMBERS:
        assert await offered(installation, device) is None


async def test_a_breaker_stops_offers_and_cuts_downloads_while_the_operator_is_down(
    installation: Installation, push: Push
) -> None:
    await under_way(installation, push)
    reader = await slow_reader(installation, MEMBERS[5])
    await installation.operator.stop()
    for device in MEMBERS[:2]:
        await fails(installation, device)
    assert await reason(installation, MEMBERS[3]) == "Offered", "two are no sample yet"
    await fails(installation, MEMBERS[2])
    assert not await reader.ended()
    for device in MEMBERS[3:]:
        assert await reason(installation, device) == "BreakerOpen"
        assert await offered(installation, device) is None
    await installation.server.restart()
    await installation.server_ready()
    assert await reason(installation, MEMBERS[3]) == "BreakerOpen", "a trip outlives a restart"
    assert await reason(installation, MEMBERS[0]) == "PreviouslyFailed"
    await installation.operator.start()
    status = await installation.phase("Stalled", "1.4.0")
    assert condition(status, "Stalled")["reason"] == "RingFailed"
    assert status["trip"]["ring"] == "canary"
    assert (status["trip"]["failed"], status["trip"]["updated"]) == (3, 0)


async def test_a_failure_takes_devices_back(installation: Installation, push: Push) -> None:
    repository = await under_way(installation, push, action="Rollback")
    updated, begun = MEMBERS[3], MEMBERS[4]
    assert await installation.version(begun) == NEW.answer
    assert await installation.firmware(begun) == NEW.data
    await post(installation, "report", device=updated, release="1.4.0", state="Updated")
    for device in MEMBERS[:3]:
        await fails(installation, device)
    status = await installation.phase("RollingBack", "1.4.0")
    assert status["rollback"]["cause"] == "Failure"
    assert await offered(installation, updated, "1.4.0") == "1.3.2"
    await installation.apply(manifest(repository, "1.4.0", action="Rollback"))
    await post(installation, "report", device=updated, release="1.3.2", state="Updated")
    await offered(installation, updated, "1.3.2")
    await offered(installation, begun, "1.3.2")
    for device in MEMBERS[:3]:
        await offered(installation, device, "1.3.2")
    status = await installation.phase("RolledBack", "1.4.0")
    assert status["history"][0]["result"] == "RolledBack"
    assert "canary" in status["history"][0]["message"]
    await installation.apply(manifest(repository, "1.4.0", action="Rollback", retryToken="again"))
    await installation.phase("Progressing", "1.4.0")
    assert await offered(installation, MEMBERS[0]) == "1.4.0", "a new run is a new attempt"


async def test_a_rollback_by_hand(installation: Installation, push: Push) -> None:
    repository = await push(OLD, "1.3.2")
    await push(NEW, "1.4.0")
    everything = [approval("1.3.2"), approval("1.4.0")]
    for version in ("1.3.2", "1.4.0"):
        await installation.apply(rollout(repository, version, approvals=everything))
        await installation.phase("Completed", version)
    assert await offered(installation, "hall-1") == "1.4.0"
    back = {"from": "1.4.0", "to": "1.3.2"}
    wrong = {"from": "1.4.0", "to": "1.0.0"}
    await installation.apply(rollout(repository, "1.4.0", approvals=everything, rollback=wrong))
    status = await installation.phase("Stalled")
    assert condition(status, "Stalled")["reason"] == "RollbackTargetUnknown"
    assert "1.3.2" in condition(status, "Stalled")["message"], "it says what it could be"
    await installation.apply(rollout(repository, "1.4.0", approvals=everything, rollback=back))
    await is_offered(installation, "hall-1", "1.3.2", version="1.4.0")
    await offered(installation, "hall-1", "1.3.2")
    status = await installation.phase("RolledBack", "1.4.0")
    assert status["stableRelease"]["version"] == "1.3.2"


async def test_a_ring_without_devices_waits_and_says_so(
    installation: Installation, push: Push
) -> None:
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("nobody-1"), manifest(repository, "1.4.0"))
    status = await installation.reaches(
        lambda status: "no device" in status.get("message", "").lower()
    )
    assert status["phase"] == "Progressing"
    assert [ring["phase"] for ring in status["rings"]] == ["Open", "Pending"]
    assert await offered(installation, "hall-1") is None


async def test_a_lost_status_is_rebuilt_and_promotes_nothing(
    installation: Installation, push: Push
) -> None:
    await under_way(installation, push)
    before = (await installation.rollout())["status"]
    await installation.operator.stop()
    await installation.kubectl(
        "patch", "fwr", "thermostat", "--subresource=status", "--type=json", "-p",
        json.dumps([{"op": "remove", "path": "/status"}]),
    )  # fmt: skip
    await installation.operator.start()
    status = await installation.reaches(
        lambda status: status.get("release", {}).get("version") == "1.4.0"
    )
    assert status["run"] == before["run"]
    assert status["stableRelease"]["version"] == "1.3.2"
    assert await offered(installation, MEMBERS[0]) == "1.4.0"
    assert await installation.version("hall-1") == OLD.answer


async def otaflux(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "otaflux_cli.main", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_a_restored_copy_promotes_nothing(
    installation: Installation, push: Push, tmp_path: Path
) -> None:
    database = f"--database=sqlite:///{tmp_path}/server/evidence.db"
    repository = await under_way(installation, push)
    await installation.apply(manifest(repository, "1.4.0", state="Paused"))
    await installation.phase("Paused")
    for device in MEMBERS:
        await post(installation, "report", device=device, release="1.4.0", state="Updated")
        await offered(installation, device, "1.4.0")

    async def written() -> int:
        reply = await installation.internal.get("/readyz?verbose")
        return int(reply.json()["detail"]["evidence"]["waiting"])

    await eventually(written, lambda waiting: waiting == 0)
    await otaflux("db", "backup", str(tmp_path / "copy.db"), database)
    await installation.operator.stop()  # what it was told before is no copy, and counts
    await installation.server.stop()
    await otaflux("db", "restore", str(tmp_path / "copy.db"), database)
    await installation.server.start()
    await installation.server_ready()
    await installation.operator.start()
    await installation.apply(manifest(repository, "1.4.0", state="Active"))
    status = await installation.reaches(
        lambda status: status["phase"] == "Progressing" and status["rings"][0].get("devices") == 6
    )
    revision = status["policy"]["revision"]
    await installation.reaches(lambda status: status["policy"].get("servedRevision") == revision)
    for _ in range(20):  # several rounds of counts
        status = (await installation.rollout())["status"]
        assert [ring["phase"] for ring in status["rings"]] == ["Open", "Pending"]
        await asyncio.sleep(0.2)
    for device in MEMBERS:
        await offered(installation, device, "1.4.0")
    await installation.reaches(lambda status: status["rings"][0]["phase"] == "Complete")
