"""Standalone decides on evidence: what devices did moves rings, stops releases, survives."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.simulation.devices import Behaviour, DeviceState, NativeTakes
from otaflux_cli.simulation.fleets import Fleet, FleetSettings, ProtocolMix, device_ids
from otaflux_cli.standalone.running import Standalone
from otaflux_operator.ports import Kind
from tests.cli.places import Place
from tests.cli.waiting import CEILING, until

DEVICES = device_ids(30)
CANARIES = DEVICES[:10]
MANIFEST = f"""
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {{name: firmware}}
spec:
  artifact: {{repository: localhost/firmware, tag: 1.3.2}}
  deviceSelector: {{}}
  deviceTimeout: 2s
  rings:
    - name: canary
      deviceSelector: {{matchLabels: {{ring: canary}}}}
      success: {{minUpdatedPercent: 100, minDevices: 10}}
      failure: {{maxPercent: 20, minSample: 5, action: Rollback}}
    - {{name: rest}}
---
apiVersion: otaflux.io/v1alpha1
kind: DeviceGroup
metadata: {{name: canaries}}
spec: {{names: [{", ".join(CANARIES)}], labels: {{ring: canary}}}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.add("1.3.2")
    place.add("1.4.0")
    place.file.write_text(MANIFEST)
    return place


def status(running: Standalone) -> dict[str, Any]:
    (found,) = running.database.resources(Kind.ROLLOUT)
    known: dict[str, Any] = found["status"]
    return known


async def is_stable(running: Standalone, version: str) -> None:
    async def reached() -> bool:
        return (status(running).get("stableRelease") or {}).get("version") == version

    await until(reached)


async def is_at(running: Standalone, phase: str) -> None:
    async def reached() -> bool:
        return status(running).get("phase") == phase

    await until(reached)


@pytest.mark.parametrize("protocol", [ProtocolMix.JSON, ProtocolMix.NATIVE])
async def test_a_release_that_bricks_canaries_is_taken_back(
    place: Place, protocol: ProtocolMix, capfd: pytest.CaptureFixture[str]
) -> None:
    """Native clients report nothing: what they fetched and ask for afterwards tells it all."""
    bricks = dict.fromkeys(CANARIES[:3], Behaviour.BRICKS)
    quick = FleetSettings(
        interval=0.2,
        reboot=0.05,
        version="1.3.0",
        harmful=frozenset({"1.4.0"}),
        native_takes=NativeTakes.DIFFERENT,
    )
    async with (
        place.running() as running,
        Fleet(running.device_url, DEVICES, protocol, quick, behaviours=bricks) as fleet,
    ):
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.3.2"), CEILING)
        await is_stable(running, "1.3.2")
        place.file.write_text(MANIFEST.replace("tag: 1.3.2", "tag: 1.4.0"))

        async def stopped() -> bool:
            assert fleet.versions(DEVICES[10:]) == {"1.3.2": 20}, "nobody beside the canaries"
            return status(running).get("rollback") is not None

        await until(stopped)
        assert {device.id for device in fleet.devices if device.state is DeviceState.BRICKED} == (
            set(bricks)
        )
        fleet.revive()
        assert await fleet.wait_until(
            lambda fleet: fleet.versions() == {"1.3.2": len(DEVICES)}, CEILING
        )
        await is_at(running, "RolledBack")
    told = "".join(capfd.readouterr())
    for reason in ("RingOpened", "RingCompleted", "RollbackStarted", "RolledBack"):
        assert reason in told, "what happens is in the log"


async def test_what_devices_did_counts_on_after_a_restart(place: Place) -> None:
    slow = MANIFEST.replace("minDevices: 10}", "minDevices: 10}\n      soak: 2s")
    place.file.write_text(slow)
    quick = FleetSettings(interval=0.2, reboot=0.05, version="1.3.0")
    async with (
        place.running() as running,
        Fleet(running.device_url, CANARIES, ProtocolMix.JSON, quick) as fleet,
    ):
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.3.2"), CEILING)
        states = await canary_states(running)
        assert states == ["Updated"] * 10
    # Nobody polls any more: what is known now, the database knew.
    async with place.running() as running:

        async def known() -> bool:
            return await canary_states(running) == ["Updated"] * 10

        await until(known)

        async def complete() -> bool:
            rings = {ring["name"]: str(ring["phase"]) for ring in status(running)["rings"]}
            return rings["canary"] == "Complete"

        await until(complete)
        assert status(running)["run"] == 1


async def canary_states(running: Standalone) -> list[str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{running.internal_url}/internal/v1/devices?ring=canary"
        answer = (await client.get(url)).raise_for_status().json()
        return [device["state"] for device in answer["devices"]]
