"""Both programs by the rights of `deploy/rbac`, on an API server that writes down every request.

One story uses all that they ever do. A right that is missing fails it, and so does one that no
request needed.
"""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import free_port
from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.installations import (
    LOOPBACK_REGISTRIES,
    UNCONDITIONAL,
    Firmware,
    Process,
    eventually,
)
from tests.fixtures.servers import apply_our_crds, require_parts
from tests.rbac.audits import Request, grants, missing, objects, requests, unused

RBAC = Path(__file__).parents[2] / "deploy" / "rbac"
SYSTEM, HOMES = "otaflux-system", "homes"
OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0", 30_001)
OPERATOR = f"{SYSTEM}:otaflux-operator"


class Installed:
    """Operator and server with their ServiceAccounts, on a control plane of their own."""

    def __init__(self, plane: ControlPlane, variant: str, folder: Path) -> None:
        self.plane, self.variant, self._folder = plane, variant, folder
        port, internal = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}/t/{HOMES}"
        self.internal_url = f"http://127.0.0.1:{internal}"
        self.token_file = folder / "token"
        self._addresses = {
            "OTAFLUX_LISTEN": f"127.0.0.1:{port}",
            "OTAFLUX_INTERNAL_LISTEN": f"127.0.0.1:{internal}",
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Installed":
        self.http = await self._stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        for namespace in (SYSTEM, HOMES):
            await self.plane.create_namespace(namespace)
        items = objects(RBAC / self.variant, namespaces=[HOMES])
        listed = {"apiVersion": "v1", "kind": "List", "items": items}
        await self.plane.kubectl("apply", "-f", "-", input=json.dumps(listed))
        for process in await self._processes():
            self._stack.push_async_callback(process.stop, signal.SIGKILL)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for process in (self.operator, self.server):  # shown with a test that fails
            sys.stderr.write(f"--- {process.log.name}\n{process.log.read_text()[-6000:]}\n")

    async def _processes(self) -> tuple[Process, Process]:
        accounts = {
            name: str(await self.plane.service_account_kubeconfig(SYSTEM, f"otaflux-{name}"))
            for name in ("operator", "server")
        }
        shared = {**LOOPBACK_REGISTRIES, "OTAFLUX_CREDENTIALS_NAMESPACE": SYSTEM}
        own = {"OTAFLUX_INTERNAL__AUTHENTICATION": "ServiceAccount"}
        if self.variant == "namespaced":
            shared["OTAFLUX_WATCH_NAMESPACES"] = json.dumps([HOMES])
            own = {
                "OTAFLUX_INTERNAL__AUTHENTICATION": "Token",
                "OTAFLUX_INTERNAL__TOKEN_FILE": str(self.token_file),
            }
            self.token_file.write_text(secrets.token_hex(32))
        else:
            self.token_file.write_text(
                await self.plane.service_account_token(SYSTEM, "otaflux-operator", "otaflux-server")
            )
        self.server = Process(
            "otaflux_server.main",
            {
                **shared,
                **own,
                **self._addresses,
                "OTAFLUX_KUBECONFIG": accounts["server"],
                "OTAFLUX_DATA_DIR": str(self._folder / "data"),
                "OTAFLUX_IDENTITY__KIND": "Open",
            },
            self._folder / "server.log",
        )
        self.operator = Process(
            "otaflux_operator.main",
            {
                **shared,
                "OTAFLUX_KUBECONFIG": accounts["operator"],
                "OTAFLUX_NAMESPACE": SYSTEM,
                "OTAFLUX_SERVER_URL": self.internal_url,
                "OTAFLUX_SERVER_TOKEN_FILE": str(self.token_file),
            },
            self._folder / "operator.log",
        )
        return self.operator, self.server

    async def apply(self, *items: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(items)}
        await self.plane.kubectl("apply", "-n", HOMES, "-f", "-", input=json.dumps(listed))

    async def status(self, kind: str, name: str) -> dict[str, Any]:
        found = await self.plane.kubectl_json("-n", HOMES, "get", kind, name)
        status: dict[str, Any] = found.get("status", {})
        return status

    async def completes(self, version: str) -> None:
        await eventually(
            lambda: self.status("fwr", "thermostat"),
            lambda status: (
                status.get("phase") == "Completed" and status["release"]["version"] == version
            ),
        )

    async def condition(self, kind: str, name: str, condition: str, wanted: str) -> None:
        await eventually(
            lambda: self.status(kind, name),
            lambda status: any(
                (one["type"], one["status"]) == (condition, wanted)
                for one in status.get("conditions", ())
            ),
        )

    async def gets(self, wanted: str | int) -> None:
        async def look() -> str | int:
            try:
                reply = await self.http.get(f"{self.url}/version", params={"device": "kitchen-1"})
            except httpx.TransportError:
                return 0
            return reply.text if reply.status_code == 200 else reply.status_code

        await eventually(look, lambda got: got == wanted)

    async def absent(self, kind: str, name: str) -> None:
        await eventually(
            lambda: self.plane.kubectl(
                "-n", HOMES, "get", kind, name, "--ignore-not-found", "-o", "name"
            ),
            lambda found: found == "",
        )

    def made(self) -> list[Request]:
        """What both asked of the API server so far."""
        return list(requests(self.plane.audit_log))


def rollout(repository: str, tag: str, secret: str) -> dict[str, Any]:
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": "thermostat"},
        "spec": {
            "artifact": {
                **{"repository": repository, "tag": tag, "insecure": True},
                "secretRef": {"name": secret},
            },
            "deviceSelector": {},
            "rings": [{"name": "fleet", "success": UNCONDITIONAL}],
        },
    }


def group(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "DeviceGroup",
        "metadata": {"name": name},
        "spec": {"names": ["kitchen-1"], "labels": labels},
    }


@pytest.fixture
async def registry(oras: Oras, tmp_path: Path) -> AsyncIterator[tuple[Registry, str, str]]:
    """A registry with two users, and a repository of OLD and NEW: it, and both passwords."""
    passwords = secrets.token_hex(8), secrets.token_hex(8)
    users = dict(zip(("robot", "other"), passwords, strict=True))
    async with Registry(require_parts("registry")["registry"], users=users) as registry:
        for firmware in (OLD, NEW):
            (tmp_path / "firmware.bin").write_bytes(firmware.data)
            await oras(
                *("push", "--plain-http", "--username", "robot", "--password", passwords[0]),
                f"{registry.host}/firmware:{firmware.version}",
                "firmware.bin:application/octet-stream",
                cwd=tmp_path,
            )
        yield (registry, *passwords)


@pytest.mark.servers
@pytest.mark.parametrize("variant", ["cluster", "namespaced"])
async def test_no_right_is_missing_and_none_is_never_used(
    variant: str, registry: tuple[Registry, str, str], tmp_path: Path
) -> None:
    require_parts("etcd", "kube-apiserver", "kubectl")
    host, *passwords = registry
    repository = f"{host.host}/firmware"
    async with ControlPlane(audit=True) as plane:
        await apply_our_crds(plane)
        async with Installed(plane, variant, tmp_path) as installed:
            await asyncio.gather(installed.server.start(), installed.operator.start())
            for user, password in zip(("robot", "other"), passwords, strict=True):
                await plane.kubectl(
                    *("create", "secret", "docker-registry", user, "-n", HOMES),
                    *(f"--docker-server={host.host}", f"--docker-username={user}"),
                    f"--docker-password={password}",
                )
            # A release with credentials; then another, with others.
            await installed.apply(group("a", ring="x"), rollout(repository, "1.3.2", "robot"))
            await installed.completes("1.3.2")
            await installed.gets(OLD.answer)
            await installed.apply(rollout(repository, "1.4.0", "other"))
            await installed.completes("1.4.0")
            await installed.gets(NEW.answer)
            # An event that comes twice is counted up.
            for _ in range(2):
                await installed.apply(group("b", ring="y"))
                await installed.condition("dg", "b", "LabelConflict", "True")
                await installed.apply(group("b", ring="x"))
                await installed.condition("dg", "b", "LabelConflict", "False")
            # Both begin again with what is there.
            await installed.operator.restart(signal.SIGTERM)
            await installed.server.restart()
            await installed.gets(NEW.answer)
            for kind, name, config_map in (
                ("dg", "b", "otaflux-group-b"),
                ("fwr", "thermostat", "otaflux-policy-thermostat"),
            ):
                await plane.kubectl("-n", HOMES, "delete", kind, name, "--wait=false")
                await installed.absent("configmap", config_map)
            await installed.gets(404)
            given = list(grants(objects(RBAC / variant, namespaces=[HOMES])))
            made = installed.made()
            assert missing(made) == set()
            # A list that is retried, or an event that is posted late, may still be under way.
            await eventually(
                lambda: asyncio.to_thread(lambda: unused(given, installed.made())),
                lambda left: left == set(),
            )
            assert missing(installed.made()) == set()
