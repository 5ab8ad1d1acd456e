"""The two places where OtaFlux runs, behind one interface: a cluster, and a single host."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import free_port
from tests.e2e.installations import LOOPBACK_REGISTRIES, Installation, Process, eventually

QUICK = {
    "OTAFLUX_EVIDENCE__SCAN_SECONDS": "0",
    "OTAFLUX_EVIDENCE__POLL_GAP_SECONDS": "1",
    "OTAFLUX_EVIDENCE__INSTALL_GRACE_SECONDS": "20",
    "OTAFLUX_POLL_AFTER_SECONDS": "1",
}
"""Spans so short that a rollout takes seconds."""

Object = dict[str, Any]


class Site(Protocol):
    """Where manifests are applied, and what devices and people see of it."""

    device_url: str
    internal_url: str

    async def apply(self, *objects: Object) -> None:
        """Applies manifests, as a user does."""

    async def rollout(self, name: str = "thermostat") -> Object:
        """The FirmwareRollout as it is there, with its status."""


class Cluster:
    """Operator and server on the real API server."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.device_url = installation.url
        self.internal_url = installation.internal_url

    async def apply(self, *objects: Object) -> None:
        await self.installation.apply(*objects)

    async def rollout(self, name: str = "thermostat") -> Object:
        return await self.installation.rollout(name)


class Host:
    """`otaflux standalone` as a process of its own, on a folder of manifests."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self.manifests, self.data = folder / "manifests", folder / "data"
        self.manifests.mkdir()
        port, internal = free_port(), free_port()
        self.device_url = f"http://127.0.0.1:{port}"
        self.internal_url = f"http://127.0.0.1:{internal}"
        self.process = Process(
            "otaflux_cli.main",
            dict(settings),
            folder / "standalone.log",
            (
                "standalone",
                f"--manifests={self.manifests}",
                f"--data={self.data}",
                f"--listen=127.0.0.1:{port}",
                f"--internal-listen=127.0.0.1:{internal}",
            ),
        )

    async def apply(self, *objects: Object) -> None:
        for manifest in objects:
            name = manifest["metadata"]["name"]
            part = self._folder / f"{name}.part"
            part.write_text(json.dumps(manifest))  # YAML, too
            part.replace(self.manifests / f"{name}.yaml")

    async def rollout(self, name: str = "thermostat") -> Object:
        from otaflux_cli.standalone.databases import Database, DatabaseUnusable
        from otaflux_operator.ports import Kind

        try:
            database = Database(self.data, read_only=True)
        except DatabaseUnusable:
            return {}
        try:
            found = database.resources(Kind.ROLLOUT)
        finally:
            database.close()
        return next((item for item in found if item["metadata"]["name"] == name), {})


@asynccontextmanager
async def cluster(plane: ControlPlane, namespace: str, folder: Path) -> AsyncIterator[Cluster]:
    async with Installation(plane, namespace, folder, settings=QUICK) as installation:
        yield Cluster(installation)


@asynccontextmanager
async def host(folder: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Host]:
    site = Host(folder, {**QUICK, **LOOPBACK_REGISTRIES, **(settings or {})})
    await site.process.start()
    try:
        await _ready(site.internal_url)
        yield site
    finally:
        await site.process.stop(signal.SIGKILL)
        tail = site.process.log.read_text(errors="replace")[-6000:]
        sys.stderr.write(f"\n--- {site.process.log.name}\n{tail}\n")


async def _ready(internal_url: str) -> None:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:

        async def look() -> int:
            try:
                return (await http.get(f"{internal_url}/readyz")).status_code
            except httpx.TransportError:
                return 0

        await eventually(look, lambda status: status == 200)
