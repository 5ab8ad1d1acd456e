"""The story on Kubernetes: API server, etcd, registry, operator and server as real processes."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import Server, free_port
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_cli.demo.backdrops import (
    GROUPS_FILE,
    NAMESPACE,
    REPOSITORY,
    ROLLOUT,
    ROLLOUT_FILE,
    SHORT_SPANS,
    Hints,
    answers,
    check_running,
    crds_folder,
    examples_folder,
    replaced,
    shortened,
)

PARTS = ("etcd", "kube-apiserver", "kubectl", "registry", "oras")
_SYSTEM, _OPERATOR = "otaflux-system", "otaflux-operator"
_RESOURCE = f"/apis/otaflux.io/v1alpha1/namespaces/{NAMESPACE}/firmwarerollouts/{ROLLOUT}"


class Cluster:
    """A `Backdrop`."""

    name = "Kubernetes"

    def __init__(
        self,
        folder: Path,
        control_plane: ControlPlane,
        registry: Registry,
        processes: tuple[Server, ...],
        ports: tuple[int, int],
        token_file: Path,
    ) -> None:
        self._folder = folder
        self._control_plane = control_plane
        self._registry = registry
        self._processes = processes
        self._device_port, self._internal_port = ports
        self._token_file = token_file
        self._oras = Oras(folder)

    @property
    def device_url(self) -> str:
        return f"http://127.0.0.1:{self._device_port}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self._internal_port}"

    @property
    def internal_headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token_file.read_text()}"}

    async def push(self, version: str, image: bytes) -> str:
        name = f"thermostat-{version}.bin"
        (self._folder / name).write_bytes(image)
        target = f"{self._registry.host}/firmware/thermostat:{version}"
        await self._oras("push", "--plain-http", target, name, cwd=self._folder)
        return f"oras push {target} {name}"

    async def apply(self) -> str:
        examples = examples_folder()
        text = shortened((examples / ROLLOUT_FILE).read_text())
        text = replaced(text, REPOSITORY, f"{self._registry.host}/firmware/thermostat")
        text = replaced(text, "# insecure: true ", "insecure: true ")
        (self._folder / ROLLOUT_FILE).write_text(text)
        files = (str(examples / GROUPS_FILE), str(self._folder / ROLLOUT_FILE))
        await self._kubectl("apply", "-f", files[0], "-f", files[1])
        return "kubectl apply -f examples/"

    async def release(self, version: str) -> str:
        return await self._patch("merge", {"spec": {"artifact": {"tag": version}}})

    async def rollout(self) -> dict[str, Any]:
        response = await self._control_plane.request("GET", _RESOURCE)
        found: dict[str, Any] = response.raise_for_status().json()
        return found

    async def overview(self) -> tuple[str, str]:
        return f"kubectl get fwr {ROLLOUT}", await self._kubectl("get", "fwr", ROLLOUT)

    def hints(self) -> Hints:
        return Hints(
            setup=(
                f"export KUBECONFIG={self._control_plane.kubeconfig}",
                f"export PATH={self._control_plane.kubectl_program.parent}:"
                f"{Path(sys.executable).parent}:$PATH",
                f"export OTAFLUX_SERVER_URL={self.internal_url}",
                f"export OTAFLUX_SERVER_TOKEN_FILE={self._token_file}",
            ),
            commands=(
                ("rollouts and groups", "kubectl get fwr,dg"),
                ("all of the status", f"kubectl describe fwr {ROLLOUT}"),
                ("the policy", "kubectl get configmaps -l app.kubernetes.io/managed-by=otaflux"),
                ("a device asks", f"curl '{self.device_url}/version?device=kitchen-1'"),
                ("why it gets that", "otaflux explain kitchen-1"),
                ("who is in which ring", f"otaflux preview {ROLLOUT}"),
                ("all devices", "otaflux devices"),
                ("metrics", f"curl {self.internal_url}/metrics"),
                ("logs", f"tail -f {self._folder}/*.log"),
            ),
        )

    def check(self) -> None:
        check_running(self._processes)

    async def _patch(self, kind: str, patch: object) -> str:
        text = json.dumps(patch, separators=(",", ":"))
        await self._kubectl("patch", "fwr", ROLLOUT, f"--type={kind}", "-p", text)
        return f"kubectl patch fwr {ROLLOUT} --type={kind} -p '{text}'"

    async def _kubectl(self, *arguments: str) -> str:
        return await self._control_plane.kubectl("-n", NAMESPACE, *arguments)


@asynccontextmanager
async def cluster(folder: Path, report: Callable[[str], None]) -> AsyncIterator[Cluster]:
    """Everything up, in `folder`; `report` is told of each part that is.

    Raises:
        PartMissing, StartFailed, CommandFailed: a part is not there, or does not start.
    """
    async with AsyncExitStack() as stack:
        control_plane = ControlPlane(folder / "control-plane")
        await stack.enter_async_context(control_plane)
        report(f"Kubernetes API server and etcd at {control_plane.url}")
        registry = await stack.enter_async_context(Registry(folder=folder / "registry"))
        report(f"OCI registry at {registry.host}")
        await control_plane.apply_crds(crds_folder())
        report("kubectl apply -f deploy/crds/: FirmwareRollout and DeviceGroup")
        token_file = await _operator_token(control_plane, folder)
        device, internal, operator_port = free_port(), free_port(), free_port()
        common = {
            "OTAFLUX_KUBECONFIG": str(control_plane.kubeconfig),
            "OTAFLUX_CREDENTIALS_NAMESPACE": NAMESPACE,
            "OTAFLUX_LOG_FORMAT": "text",
            "OTAFLUX_REGISTRIES__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        }
        server = _process(
            "server",
            "otaflux_server.main",
            folder,
            common
            | SHORT_SPANS
            | {
                "OTAFLUX_LISTEN": f"127.0.0.1:{device}",
                "OTAFLUX_INTERNAL_LISTEN": f"127.0.0.1:{internal}",
                "OTAFLUX_DATA_DIR": str(folder / "server"),
                "OTAFLUX_IDENTITY__KIND": "Open",
            },
        )
        operator = _process(
            "operator",
            "otaflux_operator.main",
            folder,
            common
            | {
                "OTAFLUX_SERVER_URL": f"http://127.0.0.1:{internal}",
                "OTAFLUX_SERVER_TOKEN_FILE": str(token_file),
                "OTAFLUX_LISTEN": f"127.0.0.1:{operator_port}",
            },
        )
        async with httpx.AsyncClient(trust_env=False) as client:
            stack.push_async_callback(server.stop)
            await server.start(lambda: answers(client, f"http://127.0.0.1:{internal}/readyz"))
            report(f"update server at http://127.0.0.1:{device}")
            stack.push_async_callback(operator.stop)
            await operator.start(
                lambda: answers(client, f"http://127.0.0.1:{operator_port}/healthz")
            )
            report("operator")
        processes, ports = (server, operator), (device, internal)
        yield Cluster(folder, control_plane, registry, processes, ports, token_file)


async def _operator_token(control_plane: ControlPlane, folder: Path) -> Path:
    """A file with a token of the operator's ServiceAccount, as a pod has it mounted."""
    await control_plane.create_namespace(_SYSTEM)
    await control_plane.kubectl("-n", _SYSTEM, "create", "serviceaccount", _OPERATOR)
    file = folder / "operator-token"
    file.touch(mode=0o600)
    file.write_text(await control_plane.service_account_token(_SYSTEM, _OPERATOR, "otaflux-server"))
    return file


def _process(name: str, module: str, folder: Path, environment: dict[str, str]) -> Server:
    return Server(
        name,
        [sys.executable, "-m", module],
        folder / f"{name}.log",
        environment=environment,
    )
