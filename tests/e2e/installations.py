"""Operator and update server as they run in production: processes of their own, on real parts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import free_port

CEILING = 30.0
LOOPBACK_REGISTRIES = {"OTAFLUX_REGISTRIES__ALLOWED_NETWORKS": '["127.0.0.0/8"]'}
T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]],
    accept: Callable[[T], bool],
    *,
    never: Callable[[T], bool] | None = None,
) -> T:
    """The first value of `look()` that `accept` takes, within 30 s.

    Raises:
        AssertionError: none came in time, or one came that `never` names.
    """
    deadline = asyncio.get_running_loop().time() + CEILING
    while True:
        value = await look()
        if accept(value):
            return value
        assert never is None or not never(value), f"a wrong answer on the way: {value!r}"
        assert asyncio.get_running_loop().time() < deadline, f"after {CEILING} s still {value!r}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Firmware:
    """An image and what `/version` says of it."""

    version: str
    data: bytes

    @property
    def answer(self) -> str:
        return f"{self.version}\n{zlib.crc32(self.data)}\n{len(self.data)}"

    @classmethod
    def make(cls, version: str, size: int = 20_000) -> Firmware:
        seed = f"firmware {version} ".encode()
        return cls(version, (seed * (size // len(seed) + 1))[:size])


class Process:
    """One of our programs, with its log in a file; started again on the same settings."""

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str],
        log: Path,
        arguments: Sequence[str] = (),
    ) -> None:
        self._module, self._environment, self.log = module, dict(environment), log
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *self._arguments,
                env={"PATH": os.environ["PATH"], **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.send_signal(how)
        code = await asyncio.wait_for(self._process.wait(), CEILING)
        self._process = None
        return code

    async def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        await self.stop(how)
        await self.start()


class Installation:
    """Operator and server for one namespace of the test's API server."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.plane, self.namespace = plane, namespace
        port, internal = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}/t/{namespace}"
        self.root_url = f"http://127.0.0.1:{port}"
        self.internal_url = f"http://127.0.0.1:{internal}"
        self._token_file = folder / "operator-token"
        shared = {
            "OTAFLUX_KUBECONFIG": str(plane.kubeconfig),
            "OTAFLUX_CREDENTIALS_NAMESPACE": namespace,
            **LOOPBACK_REGISTRIES,
            **(settings or {}),
        }
        self.server = Process(
            "otaflux_server.main",
            {
                **shared,
                "OTAFLUX_LISTEN": f"127.0.0.1:{port}",
                "OTAFLUX_INTERNAL_LISTEN": f"127.0.0.1:{internal}",
                "OTAFLUX_DATA_DIR": str(folder / "server"),
                "OTAFLUX_IDENTITY__KIND": "Open",
                "OTAFLUX_INTERNAL__SERVICE_ACCOUNTS": json.dumps([f"{namespace}:operator"]),
                "OTAFLUX_DEFAULT_NAMESPACE": namespace,
                "OTAFLUX_WATCH_NAMESPACES": json.dumps([namespace]),
            },
            folder / "server.log",
        )
        self.operator = Process(
            "otaflux_operator.main",
            {
                **shared,
                "OTAFLUX_SERVER_URL": self.internal_url,
                "OTAFLUX_SERVER_TOKEN_FILE": str(self._token_file),
                "OTAFLUX_NAMESPACE": namespace,
                "OTAFLUX_LEASE_SECONDS": "10",
                "OTAFLUX_WATCH_NAMESPACES": json.dumps([namespace]),
            },
            folder / "operator.log",
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.http = await self._stack.enter_async_context(httpx.AsyncClient(timeout=10))
        metadata = {"name": "operator"}
        await self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        token = await self.plane.service_account_token(self.namespace, "operator", "otaflux-server")
        self._token_file.write_text(token)
        self.internal = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=self.internal_url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=10,
            )
        )
        for process in (self.server, self.operator):
            await process.start()
            self._stack.push_async_callback(process.stop, signal.SIGKILL)
        await self.server_ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        for process in (self.operator, self.server):  # shown with a test that fails
            tail = process.log.read_text(errors="replace")[-6000:]
            sys.stderr.write(f"\n--- {process.log.name}\n{tail}\n")

    async def server_ready(self) -> None:
        async def look() -> int:
            try:
                return (await self.http.get(f"{self.internal_url}/readyz")).status_code
            except httpx.TransportError:
                return 0

        await eventually(look, lambda status: status == 200)

    # devices

    async def version(self, device: str) -> str | int:
        """The text of `/version`, or the status code where it is not 200; 0: no connection."""
        try:
            reply = await self.http.get(f"{self.url}/version", params={"device": device})
        except httpx.TransportError:
            return 0
        return reply.text if reply.status_code == 200 else reply.status_code

    async def firmware(self, device: str) -> bytes | int:
        try:
            reply = await self.http.get(f"{self.url}/firmware", params={"device": device})
        except httpx.TransportError:
            return 0
        return reply.content if reply.status_code == 200 else reply.status_code

    async def gets(
        self, device: str, want: Firmware | int, *, never: tuple[Firmware, ...] = ()
    ) -> None:
        """Waits until the device is told `want` (404: nothing), and downloads those bytes."""
        answer = want.answer if isinstance(want, Firmware) else want
        wrong = {firmware.answer for firmware in never}
        await eventually(
            lambda: self.version(device), lambda got: got == answer, never=lambda got: got in wrong
        )
        if isinstance(want, Firmware):
            assert await self.firmware(device) == want.data

    # users

    async def kubectl(self, *arguments: str, input: object = None) -> str:
        text = None if input is None else json.dumps(input)
        return await self.plane.kubectl("-n", self.namespace, *arguments, input=text)

    async def apply(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("apply", "-f", "-", input=items)

    async def rollout(self, name: str = "thermostat") -> dict[str, Any]:
        found: dict[str, Any] = await self.plane.kubectl_json(
            "-n", self.namespace, "get", "fwr", name
        )
        return found

    async def reaches(
        self, accept: Callable[[dict[str, Any]], bool], name: str = "thermostat"
    ) -> dict[str, Any]:
        """The rollout's status once `accept` takes it."""

        async def look() -> dict[str, Any]:
            status: dict[str, Any] = (await self.rollout(name)).get("status", {})
            return status

        return await eventually(look, accept)

    async def observed(self, name: str = "thermostat") -> dict[str, Any]:
        """The rollout's status once the operator has acted upon the spec as it is now."""
        generation = (await self.rollout(name))["metadata"]["generation"]
        return await self.reaches(lambda status: status.get("observedGeneration") == generation)

    async def phase(self, phase: str, version: str | None = None) -> dict[str, Any]:
        return await self.reaches(
            lambda status: (
                status.get("phase") == phase
                and (version is None or status.get("release", {}).get("version") == version)
            )
        )


def condition(status: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of this type; empty where it is not set."""
    found: list[dict[str, Any]] = status.get("conditions", [])
    return next((entry for entry in found if entry["type"] == kind), {})


UNCONDITIONAL = {"minUpdatedPercent": 0, "minDevices": 0}


def rollout(repository: str, tag: str, **spec: Any) -> dict[str, Any]:
    """A FirmwareRollout of two rings: canaries by label, then everyone after an approval."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": spec.pop("name", "thermostat")},
        "spec": {
            "artifact": {
                "repository": repository,
                "tag": tag,
                "insecure": True,
                **spec.pop("artifact", {}),
            },
            "deviceSelector": {},
            "rings": [
                {
                    "name": "canary",
                    "deviceSelector": {"matchLabels": {"ring": "canary"}},
                    "success": UNCONDITIONAL,
                },
                {"name": "fleet", "gate": "Approval", "success": UNCONDITIONAL},
            ],
            **spec,
        },
    }


def canaries(*names: str) -> dict[str, Any]:
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "DeviceGroup",
        "metadata": {"name": "canaries"},
        "spec": {"names": list(names), "labels": {"ring": "canary"}},
    }


def approval(release: str, ring: str = "fleet", effect: str = "Gate") -> dict[str, str]:
    return {"ring": ring, "release": release, "effect": effect}
