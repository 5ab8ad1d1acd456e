"""A real API server, a registry, and our operator and update server on them."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import NotMeasured, progress
from otaflux_cli.control_plane import PartMissing
from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import StartFailed
from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.installations import Firmware, Installation, eventually

CRDS = Path(__file__).parents[1] / "deploy" / "crds"
NAMESPACE = "bench"
_PATH = f"/apis/otaflux.io/v1alpha1/namespaces/{NAMESPACE}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a benchmark works with; `repository` is where `push` pushes to, by version."""

    plane: ControlPlane
    installation: Installation
    repository: str
    push: Callable[[Firmware], Awaitable[None]]

    async def create_group(self, manifest: dict[str, Any]) -> None:
        await self._request("POST", f"{_PATH}/devicegroups", manifest)

    async def create(self, rollout: dict[str, Any]) -> None:
        await self._request("POST", f"{_PATH}/firmwarerollouts", rollout)

    async def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Merges `spec` into that of a rollout; returns once the API server has accepted it."""
        await self._request("PATCH", f"{_PATH}/firmwarerollouts/{name}", {"spec": spec})

    async def delete(self, name: str) -> None:
        await self._request("DELETE", f"{_PATH}/firmwarerollouts/{name}")

    async def reaches(self, name: str, phase: str, version: str | None = None) -> None:
        """Waits until the rollout's status is in this phase, for its present generation."""

        async def look() -> tuple[bool, dict[str, Any]]:
            found = await self._request("GET", f"{_PATH}/firmwarerollouts/{name}")
            status = found.get("status", {})
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            return current, status

        await eventually(
            look,
            lambda seen: (
                seen[0]
                and seen[1].get("phase") == phase
                and version in (None, seen[1].get("release", {}).get("version"))
            ),
        )

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        reply = await self.plane.request(method, path, body)
        if reply.is_error:
            raise NotMeasured(f"the API server answered {reply.status_code}: {reply.text}")
        content: dict[str, Any] = reply.json()
        return content


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Everything running. Raises NotMeasured where a program is missing or does not start."""
    try:
        plane, registry, oras = ControlPlane(), Registry(), Oras(folder)
    except PartMissing as why:
        raise NotMeasured(str(why)) from None
    progress("starting API server, registry, operator and update server")
    try:
        async with plane, registry:
            await plane.apply_crds(CRDS)
            await plane.create_namespace(NAMESPACE)
            repository = f"{registry.host}/firmware/thermostat"

            async def push(firmware: Firmware) -> None:
                (folder / "firmware.bin").write_bytes(firmware.data)
                await oras(
                    "push", "--plain-http", f"{repository}:{firmware.version}",
                    "firmware.bin:application/octet-stream", cwd=folder,
                )  # fmt: skip

            async with _installation(plane, folder) as installation:
                yield Cluster(plane, installation, repository, push)
    except (StartFailed, AssertionError) as why:
        raise NotMeasured(str(why)) from why


@asynccontextmanager
async def _installation(plane: ControlPlane, folder: Path) -> AsyncIterator[Installation]:
    """An installation whose programs' logs are shown only after a failure."""
    installed = await Installation(plane, NAMESPACE, folder).__aenter__()
    try:
        yield installed
    except BaseException:
        await installed.__aexit__(*sys.exc_info())
        raise
    with redirect_stderr(io.StringIO()):
        await installed.__aexit__(None, None, None)
