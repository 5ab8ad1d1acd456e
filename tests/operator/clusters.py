"""The operator on a real API server, with a registry and a stand-in for the update servers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras
from otaflux_operator.kubernetes.running import KubernetesOperator
from otaflux_operator.settings import Settings
from otaflux_operator.timing import Timing
from otaflux_policy.canonical import loads_policy
from otaflux_policy.contract import POLICY_KEY, Policy
from otaflux_policy.served import ArtifactState, ServedArtifact, ServedRollout
from tests.fixtures.oci_sources import LOOPBACK
from tests.operator.fakes import CEILING
from tests.operator.worlds import AT_ONCE

T = TypeVar("T")
TIMING = Timing(retry_first=0.1, retry_most=0.5, ask_steady=0.5, sweep_every=1.0)
"""As always, but nothing takes half a minute."""


async def eventually(look: Callable[[], Awaitable[T]], accept: Callable[[T], bool]) -> T:
    """The first value of `look()` that `accept` takes; fails after a generous time."""
    value = await look()
    try:
        async with asyncio.timeout(CEILING):
            while not accept(value):
                await asyncio.sleep(0.02)
                value = await look()
    except TimeoutError:
        raise AssertionError(f"never; last was: {value!r}") from None
    return value


class UpdateServer:
    """Answers as servers do that use every published policy and have stored all it lists.

    `says`: fields of the answer that are others.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.questions = 0
        self.says: dict[str, Any] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.questions += 1
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        policy = await published_policy(self._plane, namespace, name)
        releases = policy.releases if policy is not None else ()
        served = ServedRollout(
            namespace=namespace,
            name=name,
            revision=policy.revision if policy is not None else None,
            schema_versions=(1,),
            artifacts=tuple(
                ServedArtifact(digest=release.firmware.digest, state=ArtifactState.STORED)
                for release in releases
            ),
        )
        answer = served.model_copy(update=self.says)
        return web.json_response(text=answer.model_dump_json())


@asynccontextmanager
async def update_server(
    plane: ControlPlane, server: UpdateServer | None = None
) -> AsyncIterator[str]:
    """The URL of an `UpdateServer`."""
    app = web.Application()
    server = server or UpdateServer(plane)
    app.router.add_get("/internal/v1/rollouts/{namespace}/{name}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def operating(
    plane: ControlPlane, namespace: str, *, server_url: str | None = None, **fields: Any
) -> AsyncIterator[KubernetesOperator]:
    """The operator for one namespace, in this process."""
    async with update_server(plane) as url:
        settings = Settings(
            kubeconfig=plane.kubeconfig,
            watch_namespaces=(namespace,),
            namespace=namespace,
            credentials_namespace=namespace,
            server_url=server_url or url,
            **fields,
            registries=LOOPBACK,
        )
        async with KubernetesOperator(settings, TIMING) as operator:
            async with asyncio.timeout(CEILING):
                await operator.working.wait()
            yield operator


async def config_map(plane: ControlPlane, namespace: str, name: str) -> dict[str, Any] | None:
    response = await plane.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    return None if response.status_code == 404 else response.raise_for_status().json()


async def published_policy(plane: ControlPlane, namespace: str, name: str) -> Policy | None:
    found = await config_map(plane, namespace, f"otaflux-policy-{name}")
    if found is None or POLICY_KEY not in (found.get("data") or {}):
        return None
    return loads_policy(found["data"][POLICY_KEY], namespace=namespace, name=name)


async def push(oras: Oras, folder: Path, reference: str, content: bytes) -> None:
    """Firmware under a tag of a registry on plain http."""
    (folder / "firmware.bin").write_bytes(content)
    await oras(
        "push", "--plain-http", reference, "firmware.bin:application/octet-stream", cwd=folder
    )


class Rollout:
    """One FirmwareRollout, `thermostat`, as a person with kubectl sees it."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.path = f"/apis/otaflux.io/v1alpha1/namespaces/{namespace}/firmwarerollouts/thermostat"

    async def apply(self, repository: str, tag: str, **spec: Any) -> None:
        artifact = {"repository": repository, "tag": tag, "insecure": True, "interval": "1s"}
        artifact |= spec.pop("artifact", {})
        rings = [{"name": "canary", "percent": 10, **AT_ONCE}, {"name": "fleet", **AT_ONCE}]
        manifest = {
            "apiVersion": "otaflux.io/v1alpha1",
            "kind": "FirmwareRollout",
            "metadata": {"name": "thermostat"},
            "spec": {"artifact": artifact, "deviceSelector": {}, "rings": rings} | spec,
        }
        await self.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    async def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return await self.plane.kubectl(*arguments, "-n", self.namespace, input=input)

    async def get(self) -> dict[str, Any]:
        response = await self.plane.request("GET", self.path)
        return {} if response.status_code == 404 else response.raise_for_status().json()

    async def condition(self, type_: str) -> str:
        """`True/Reason`, or nothing."""
        known = (await self.get()).get("status", {}).get("conditions", ())
        return next((f"{c['status']}/{c['reason']}" for c in known if c["type"] == type_), "")

    async def has(self, type_: str, expected: str) -> None:
        await eventually(lambda: self.condition(type_), lambda found: found == expected)

    async def completes(self, version: str) -> None:
        """Until this version is completed and ready, in one status."""

        def accept(found: dict[str, Any]) -> bool:
            status = found.get("status", {})
            holds = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
            return {"Ready", "Completed"} <= holds and status["release"]["version"] == version

        await eventually(self.get, accept)

    async def policy(self) -> Policy | None:
        return await published_policy(self.plane, self.namespace, "thermostat")

    async def config_map(self) -> dict[str, Any] | None:
        return await config_map(self.plane, self.namespace, "otaflux-policy-thermostat")

    async def is_withdrawn(self) -> None:
        await eventually(self.config_map, lambda found: found is None)

    async def events(self) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{self.namespace}/events"
        response = (await self.plane.request("GET", path)).raise_for_status()
        items = response.json()["items"]
        return [item for item in items if item["involvedObject"]["name"] == "thermostat"]

    async def reasons(self) -> set[str]:
        """Of its events."""
        return {event["reason"] for event in await self.events()}

    async def has_event(self, reason: str) -> None:
        await eventually(self.reasons, lambda found: reason in found)


def docker_config_secret(name: str, registry: str, username: str, password: str) -> str:
    """The manifest of a pull secret."""
    auth = {"username": username, "password": password}
    config = json.dumps({"auths": {registry: auth}}).encode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": name},
            "data": {".dockerconfigjson": base64.b64encode(config).decode()},
        }
    )
