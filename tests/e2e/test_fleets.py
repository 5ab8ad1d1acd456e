"""2 000 devices through whole rollouts, in a cluster and on a single host."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.simulation.devices import Behaviour, DeviceState
from otaflux_cli.simulation.fleets import Fleet, FleetSettings, ProtocolMix, device_ids
from tests.e2e.conftest import Push
from tests.e2e.installations import Firmware, condition
from tests.e2e.sites import Cluster, Object, Site, cluster, host

DEVICES = 2_000
CANARIES = 99
CEILING = 150.0
OLD, NEW, NEWER = (Firmware.make(version, 4_000) for version in ("1.0.0", "1.1.0", "1.2.0"))

Status = dict[str, Any]


@pytest.fixture(params=["cluster", "host"])
async def site(
    request: pytest.FixtureRequest, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[Site]:
    if request.param == "cluster":
        async with cluster(control_plane, namespace, tmp_path) as in_cluster:
            yield in_cluster
    else:
        async with host(tmp_path) as on_host:
            yield on_host


@asynccontextmanager
async def devices(
    site: Site, protocol: ProtocolMix = ProtocolMix.JSON, version: str = "1.0.0"
) -> AsyncIterator[Fleet]:
    settings = FleetSettings(interval=2.0, reboot=0.2, version=version)
    async with Fleet(site.device_url, device_ids(DEVICES), protocol, settings) as fleet:
        yield fleet


CANARY_GROUP: Object = {
    "apiVersion": "otaflux.io/v1alpha1",
    "kind": "DeviceGroup",
    "metadata": {"name": "canaries"},
    "spec": {"names": ["sim-000??"], "labels": {"ring": "canary"}},
}


def manifest(
    repository: str, tag: str, *, action: str = "Rollback", soak: str = "1s", **spec: Any
) -> Object:
    failure = {"maxPercent": 20, "minSample": 10, "action": action}
    ring = {"success": {"minUpdatedPercent": 90, "minDevices": 1}, "failure": failure, "soak": soak}
    canary = {"matchLabels": {"ring": "canary"}}
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": "thermostat"},
        "spec": {
            "artifact": {"repository": repository, "tag": tag, "insecure": True},
            "deviceSelector": {},
            "deviceTimeout": "30s",
            "activeWithin": "60s",
            "rings": [
                {"name": "canary", "deviceSelector": canary, **ring},
                {"name": "early", "percent": 20, **ring},
                {"name": "fleet", **ring},
            ],
            **spec,
        },
    }


async def reaches(
    site: Site, accept: Callable[[Status], bool], look: Callable[[Status], None] = lambda _: None
) -> Status:
    """The first status that `accept` takes; `look` sees every one on the way."""
    deadline = asyncio.get_running_loop().time() + CEILING
    while True:
        status: Status = (await site.rollout()).get("status", {})
        look(status)
        if accept(status):
            return status
        assert asyncio.get_running_loop().time() < deadline, (
            f"still {status.get('phase')}: {status.get('message')}"
        )
        await asyncio.sleep(0.2)


def is_at(phase: str, version: str) -> Callable[[Status], bool]:
    return lambda status: (
        status.get("phase") == phase and (status.get("release") or {}).get("version") == version
    )


def ring_of(status: Status, name: str) -> Status:
    return next((ring for ring in status.get("rings", []) if ring["name"] == name), {})


def running(fleet: Fleet, version: str, *, canaries: bool | None = None) -> int:
    """How many devices run the version: of all, of the canaries, or of the others."""
    chosen = {True: fleet.devices[:CANARIES], False: fleet.devices[CANARIES:], None: fleet.devices}
    return sum(
        device.version == version and device.state is not DeviceState.BRICKED
        for device in chosen[canaries]
    )


async def all_run(fleet: Fleet, version: str) -> None:
    assert await fleet.wait_until(lambda now: now.all_run(version), CEILING), fleet.summary()


async def released(site: Site, push: Push, *firmware: Firmware, **spec: Any) -> str:
    """1.0.0 is the stable release of all devices; → the repository, which holds the others too."""
    repository = await push(OLD, OLD.version)
    for further in firmware:
        await push(further, further.version)
    await site.apply(CANARY_GROUP, manifest(repository, OLD.version, **spec))
    await reaches(
        site,
        lambda status: (
            is_at("Completed", OLD.version)(status)
            and status.get("updatedSummary") == f"{DEVICES}/{DEVICES}"
        ),
    )
    return repository


class Order:
    """Sees that no ring begins before the one before it is complete."""

    def __init__(self, fleet: Fleet, version: str) -> None:
        self._fleet, self._version = fleet, version
        self._outside = 0

    def __call__(self, status: Status) -> None:
        # What ran before the status was read: the ring was open by then.
        outside, self._outside = self._outside, running(self._fleet, self._version, canaries=False)
        if (status.get("release") or {}).get("version") != self._version:
            return
        if ring_of(status, "canary").get("phase") != "Complete":
            assert ring_of(status, "early").get("openedAt") is None
            assert outside == 0
        if ring_of(status, "early").get("phase") != "Complete":
            assert ring_of(status, "fleet").get("openedAt") is None


async def test_a_good_release_goes_through_three_rings(site: Site, push: Push) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW)
        await site.apply(manifest(repository, NEW.version))
        status = await reaches(site, is_at("Completed", NEW.version), Order(fleet, NEW.version))
        await all_run(fleet, NEW.version)
        assert [entry["result"] for entry in status["history"]] == ["Completed", "Completed"]
        assert [ring["phase"] for ring in status["rings"]] == ["Complete"] * 3
        await reaches(site, lambda now: now.get("updatedSummary") == f"{DEVICES}/{DEVICES}")
        if isinstance(site, Cluster):
            await told_once(site, "RingCompleted", 6)


async def told_once(site: Cluster, reason: str, times: int) -> None:
    """Events with the reason, as people see them: so many, and none repeated."""
    found = await site.installation.plane.kubectl_json(
        "-n", site.installation.namespace, "get", "events"
    )
    events = [event for event in found["items"] if event.get("reason") == reason]
    assert [event.get("series") for event in events] == [None] * times


async def test_a_release_that_bricks_canaries_is_taken_back(site: Site, push: Push) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW, deviceTimeout="5s")
        bricked = fleet.devices[: CANARIES * 3 // 10]
        for device in bricked:
            device.behaviour = Behaviour.BRICKS
        await site.apply(manifest(repository, NEW.version, deviceTimeout="5s"))
        status = await reaches(
            site, is_at("RolledBack", NEW.version), lambda _: nobody_outside(fleet)
        )
        rollback = status["rollback"]
        assert rollback["cause"] == "Failure"
        assert rollback["devices"] == rollback["restored"] + rollback["unconfirmed"]
        assert rollback["unconfirmed"] == len(bricked)
        assert "ring canary failed" in status["history"][0]["message"]
        assert condition(status, "Stalled")["status"] == "True"
        fleet.revive()
        assert await fleet.wait_until(lambda _: running(fleet, OLD.version) == DEVICES, CEILING)


def nobody_outside(fleet: Fleet, version: str = NEW.version) -> None:
    assert running(fleet, version, canaries=False) == 0


async def test_a_release_that_boots_and_reverts_is_stopped(site: Site, push: Push) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW, NEWER)
        for device in fleet.devices[: CANARIES * 4 // 10]:
            device.behaviour = Behaviour.REVERTS
        await site.apply(manifest(repository, NEW.version, action="Pause"))
        status = await reaches(site, is_at("Stalled", NEW.version), lambda _: nobody_outside(fleet))
        assert condition(status, "Stalled")["reason"] == "RingFailed"
        assert ring_of(status, "canary")["phase"] == "Failed"
        assert "canary" in status["message"]
        for device in fleet.devices:
            device.behaviour = Behaviour.NORMAL
        await site.apply(manifest(repository, NEWER.version, action="Pause"))
        await reaches(site, is_at("Completed", NEWER.version), Order(fleet, NEWER.version))
        await all_run(fleet, NEWER.version)


async def test_native_clients_that_never_report(site: Site, push: Push) -> None:
    async with devices(site, ProtocolMix.NATIVE) as fleet:
        repository = await push(NEW, NEW.version)
        await site.apply(CANARY_GROUP, manifest(repository, NEW.version))
        status = await reaches(site, is_at("Completed", NEW.version), Order(fleet, NEW.version))
        await all_run(fleet, NEW.version)
        assert [ring["phase"] for ring in status["rings"]] == ["Complete"] * 3


async def half_way(site: Site, repository: str, version: str) -> None:
    """The release is with the canaries and with some of the early ring."""
    await site.apply(manifest(repository, version, soak="3s"))
    await reaches(
        site,
        lambda status: (
            (status.get("release") or {}).get("version") == version
            and ring_of(status, "early").get("updated", 0) > 0
        ),
    )


async def test_a_new_tag_at_half_way(site: Site, push: Push) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW, NEWER)
        await half_way(site, repository, NEW.version)
        await site.apply(manifest(repository, NEWER.version))
        status = await reaches(site, is_at("Completed", NEWER.version))
        await all_run(fleet, NEWER.version)
        results = [(entry["version"], entry["result"]) for entry in status["history"]]
        assert results == [
            (NEWER.version, "Completed"),
            (NEW.version, "Superseded"),
            (OLD.version, "Completed"),
        ]


async def test_a_git_revert_at_half_way(site: Site, push: Push) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW)
        await half_way(site, repository, NEW.version)
        assert running(fleet, NEW.version) > 0
        await site.apply(manifest(repository, OLD.version))
        status = await reaches(site, is_at("RolledBack", NEW.version))
        await all_run(fleet, OLD.version)
        assert status["rollback"]["cause"] == "Revert"
        assert status["history"][0]["result"] == "RolledBack"


async def test_a_gitops_actor_that_applies_its_manifest_every_second(
    site: Site, push: Push
) -> None:
    async with devices(site) as fleet:
        repository = await released(site, push, NEW)
        wanted = manifest(repository, NEW.version)
        await site.apply(wanted)
        await reaches(site, is_at("Progressing", NEW.version))
        before = await site.rollout()

        async def act() -> None:
            while True:
                await site.apply(CANARY_GROUP, wanted)
                await asyncio.sleep(1)

        acting = asyncio.create_task(act())
        try:
            await reaches(site, is_at("Completed", NEW.version), Order(fleet, NEW.version))
            await all_run(fleet, NEW.version)
        finally:
            acting.cancel()
            with suppress(asyncio.CancelledError):
                await acting
        after = await site.rollout()
        assert after["spec"] == before["spec"]
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        if isinstance(site, Cluster):
            shown = await site.installation.plane.kubectl_json(
                "-n", site.installation.namespace, "get", "fwr", "--show-managed-fields"
            )
            managed = shown["items"][0]["metadata"]["managedFields"]
            assert len(managed) > 1
            assert not operators_fields(managed)


def operators_fields(managed: list[Object]) -> list[str]:
    """Fields outside the status that the operator claims to own."""
    return [
        name
        for entry in managed
        if entry.get("subresource") == "status" or "otaflux" in entry["manager"]
        for name in entry["fieldsV1"]
        if name != "f:status"
    ]
