"""Two operators as real processes: one works, and when it is gone or stands still, the other."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Push
from tests.e2e.installations import (
    CEILING,
    Firmware,
    Installation,
    Process,
    canaries,
    eventually,
    rollout,
)

NEW = Firmware.make("1.4.0")


@pytest.fixture
async def second(installation: Installation, tmp_path: Path) -> AsyncIterator[Process]:
    """Another operator with the same settings, not started yet."""
    first = installation.operator
    process = Process("otaflux_operator.main", first._environment, tmp_path / "second.log")
    yield process
    await process.stop(signal.SIGKILL)


def says(process: Process, event: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return process.log.exists() and f'"{event}"' in process.log.read_text()

    return look


async def config_map(installation: Installation) -> dict[str, Any]:
    text = await installation.kubectl("get", "configmap", "otaflux-policy-thermostat", "-o", "json")
    found: dict[str, Any] = json.loads(text)
    return found


def policy(found: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found["data"]["policy.json"])
    return content


async def started(installation: Installation, push: Push, second: Process) -> str:
    """A rollout by the first operator, with the second one waiting; its repository."""
    repository = await push(NEW, "1.4.0")
    await installation.apply(canaries("kitchen-1"), rollout(repository, "1.4.0"))
    await installation.gets("kitchen-1", NEW)
    await second.start()
    await eventually(says(second, "waiting for the Lease"), bool)
    return repository


async def test_when_one_is_killed_the_other_takes_over_under_a_higher_epoch(
    installation: Installation, push: Push, second: Process
) -> None:
    repository = await started(installation, push, second)
    before = policy(await config_map(installation))
    await installation.operator.stop(signal.SIGKILL)
    # Without any change: what the one before may still write comes before this.
    after = await eventually(
        lambda: config_map(installation), lambda found: policy(found)["epoch"] > before["epoch"]
    )
    same = {"revision": "", "epoch": 0, "sequence": 0}
    assert policy(after) | same == before | same
    await installation.apply(rollout(repository, "1.4.0", state="Paused"))
    await installation.gets("kitchen-1", 404)


async def test_one_that_ends_gives_the_lease_back_and_nothing_is_written_again(
    installation: Installation, push: Push, second: Process
) -> None:
    repository = await started(installation, push, second)
    before = await config_map(installation)
    assert await installation.operator.stop(signal.SIGTERM) == 0
    await eventually(says(second, "working"), bool)
    await installation.apply(canaries("kitchen-1", "hall-1"))
    await installation.gets("hall-1", NEW)
    assert await config_map(installation) == before
    await installation.apply(rollout(repository, "1.4.0", state="Paused"))
    await installation.gets("kitchen-1", 404)


async def test_one_that_stood_still_past_its_lease_ends_and_writes_nothing(
    installation: Installation, push: Push, second: Process
) -> None:
    repository = await started(installation, push, second)
    first = installation.operator._process
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    await eventually(says(second, "working"), bool)
    await installation.apply(rollout(repository, "1.4.0", state="Paused"))
    await installation.gets("kitchen-1", 404)
    # Nobody writes now but the one that goes on, to which all of this is news.
    await second.stop(signal.SIGKILL)
    await installation.apply(rollout(repository, "1.4.0", priority=7))
    before = await config_map(installation), await installation.rollout()
    os.kill(first.pid, signal.SIGCONT)
    assert await asyncio.wait_for(first.wait(), CEILING) == 1
    assert "LeaseLost" in installation.operator.log.read_text()
    assert (await config_map(installation), await installation.rollout()) == before
    assert policy(before[0])["state"] == "Paused"
    await installation.gets("kitchen-1", 404)
    await second.start()
    await installation.gets("kitchen-1", NEW)
