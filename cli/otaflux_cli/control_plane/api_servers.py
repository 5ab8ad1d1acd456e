"""A real Kubernetes API server on 127.0.0.1, for tests and the demo.

etcd and kube-apiserver run in a temporary folder with RBAC; the garbage
collector (kube-controller-manager) is started only where it is wanted. There
is no scheduler and no kubelet: Pods are accepted and never run. Without the
controller manager the aggregated roles admin, edit and view are empty.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from .certificates import ServerCertificate, write_key, write_public_key, write_server_certificate
from .finding import find_all
from .lifetimes import Lifetime
from .processes import Server, StartFailed, free_port, run_command

ADMIN = "otaflux-admin"
PLAIN_USER = "otaflux-user"

_START_ATTEMPTS = 3
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata"}],
    "omitStages": ["RequestReceived"],
}


class ControlPlane(Lifetime):
    """One API server with its etcd; an async context manager.

    ``kubeconfig`` is the administrator's, ``user_kubeconfig`` that of a user
    of no group who may do nothing until RBAC allows it. Paths are valid from
    the first ``start()`` until the ``async with`` block ends. Raises
    PartMissing where a program is not on this machine, StartFailed where one
    does not come up.
    """

    def __init__(self, folder: Path | None = None, *, audit: bool = False) -> None:
        """Keep everything in ``folder`` (kept), or in a temporary one (removed at the end).

        ``audit``: every request is written to ``audit_log``, one JSON object (audit.k8s.io/v1
        Event, metadata only) a line, once it is answered or a watch begins.
        """
        self._programs = find_all(("etcd", "kube-apiserver", "kubectl"))
        super().__init__("control plane", folder)
        self._servers: list[Server] = []
        self._controller_manager: Server | None = None
        self._certificate: ServerCertificate | None = None
        self._admin_token = secrets.token_hex(16)
        self._user_token = secrets.token_hex(16)
        self._port = 0
        self._etcd_url = ""
        self._http: httpx.AsyncClient | None = None
        self._audit = audit

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def user_kubeconfig(self) -> Path:
        return self.folder / "user.kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    @property
    def kubectl_program(self) -> Path:
        return self._programs["kubectl"]

    @property
    def running(self) -> bool:
        return bool(self._servers) and all(server.running for server in self._servers)

    async def start(self) -> None:
        """Start, or start again on the same data and port after ``stop()``."""
        if self._servers:
            await self._start_servers()
            return
        self._make_folder()
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._prepare()
            try:
                await self._start_servers()
                return
            except StartFailed as error:
                await self.stop(kill=True)
                await self._close_client()
                self._servers = []
                if attempt == _START_ATTEMPTS or "address already in use" not in str(error):
                    raise

    async def stop(self, *, kill: bool = False) -> None:
        """Stop all servers and keep their data; ``kill`` as in a power cut."""
        if self._controller_manager is not None:
            await self._controller_manager.stop(kill=kill)
            self._controller_manager = None
        for server in reversed(self._servers):
            await server.stop(kill=kill)

    async def restart_api_server(self) -> None:
        """Stop the API server alone and start it again; etcd keeps running."""
        api_server = self._servers[-1]
        await api_server.stop()
        await api_server.start(self._api_server_ready)

    async def start_controller_manager(self) -> None:
        """Start garbage collection, removal of deleted namespaces, and role aggregation."""
        if self._controller_manager is not None:
            return
        program = find_all(("kube-controller-manager",))["kube-controller-manager"]
        port = free_port()
        server = Server(
            "kube-controller-manager",
            [
                str(program),
                f"--kubeconfig={self.kubeconfig}",
                f"--authentication-kubeconfig={self.kubeconfig}",
                f"--authorization-kubeconfig={self.kubeconfig}",
                "--controllers=garbage-collector-controller,namespace-controller,"
                "clusterrole-aggregation-controller",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={self.folder / 'controller-manager'}",
            ],
            self.folder / "kube-controller-manager.log",
        )
        # Its own throw-away certificate, which nobody can know beforehand.
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            await server.start(lambda: _answers(client, f"https://127.0.0.1:{port}/healthz"))
        self._controller_manager = server

    async def stop_controller_manager(self) -> None:
        """Stop what ``start_controller_manager()`` started, if it did."""
        if self._controller_manager is not None:
            await self._controller_manager.stop()
            self._controller_manager = None

    async def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        kubeconfig: Path | None = None,
        timeout: float = 120.0,
    ) -> str:
        """Run the real kubectl and return its standard output; raises CommandFailed.

        As the administrator unless another ``kubeconfig`` is given.
        """
        return await run_command(
            [str(self.kubectl_program), *arguments],
            input_text=input,
            environment=self.environment(kubeconfig),
            timeout=timeout,
        )

    async def kubectl_json(self, *arguments: str, kubeconfig: Path | None = None) -> Any:
        """What kubectl prints with ``-o json``, parsed."""
        return json.loads(await self.kubectl(*arguments, "-o", "json", kubeconfig=kubeconfig))

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Environment variables that make kubectl and client libraries talk to this API server."""
        return {
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
        }

    async def request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        """One request to the API as the administrator, without the 0.1 s that kubectl takes.

        The body of a PATCH is a JSON merge patch.
        """
        if self._http is None:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                verify=ssl.create_default_context(cafile=str(self._files.authority)),
                headers={"Authorization": f"Bearer {self._admin_token}"},
                timeout=30,
                trust_env=False,
            )
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return await self._http.request(method, path, json=body, headers={"Content-Type": kind})

    async def create_namespace(self, name: str) -> None:
        response = await self.request(
            "POST", "/api/v1/namespaces", {"metadata": {"name": name}, "kind": "Namespace"}
        )
        response.raise_for_status()

    async def apply_crds(self, folder: Path) -> None:
        """Apply every CustomResourceDefinition of a folder and wait until they are served."""
        await self.kubectl("apply", "--server-side", "-f", str(folder))
        await self.kubectl(
            "wait", "--for=condition=Established", "--timeout=60s", "-f", str(folder)
        )

    async def service_account_token(self, namespace: str, name: str, audience: str) -> str:
        """A token of the ServiceAccount for this audience, good for a day."""
        token = await self.kubectl(
            *("-n", namespace, "create", "token", name),
            *(f"--audience={audience}", "--duration=24h"),
        )
        return token.strip()

    async def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a fresh token of a ServiceAccount that exists."""
        token = await self.kubectl("create", "token", name, "--namespace", namespace)
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        self._write_kubeconfig(path, f"{namespace}/{name}", token.strip(), namespace)
        return path

    @property
    def _files(self) -> ServerCertificate:
        if self._certificate is None:
            raise RuntimeError("the control plane was not started")
        return self._certificate

    def _prepare(self) -> None:
        folder = self.folder
        self._port = free_port()
        etcd_url = f"http://127.0.0.1:{free_port()}"
        self._certificate = write_server_certificate(
            folder,
            names=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
            prefix="api-server",
        )
        account_key = folder / "service-accounts.key"
        account_public_key = folder / "service-accounts.pub"
        write_public_key(account_public_key, write_key(account_key))
        tokens = folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(
            f'{self._admin_token},{ADMIN},{ADMIN},"system:masters"\n'
            f"{self._user_token},{PLAIN_USER},{PLAIN_USER}\n"
        )
        self._write_kubeconfig(self.kubeconfig, ADMIN, self._admin_token)
        self._write_kubeconfig(self.user_kubeconfig, PLAIN_USER, self._user_token)
        etcd = Server(
            "etcd",
            [
                str(self._programs["etcd"]),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                "--listen-peer-urls=http://127.0.0.1:0",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            folder / "etcd.log",
        )
        api_server = Server(
            "kube-apiserver",
            [
                str(self._programs["kube-apiserver"]),
                f"--etcd-servers={etcd_url}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--tls-cert-file={self._files.certificate}",
                f"--tls-private-key-file={self._files.key}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={account_public_key}",
                f"--service-account-signing-key-file={account_key}",
                "--service-cluster-ip-range=10.0.0.0/24",
                # Nothing makes the default ServiceAccount that this would wait for.
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
                f"--cert-dir={folder / 'api-server'}",
                "--profiling=false",
                *(self._audit_options() if self._audit else ()),
            ],
            folder / "kube-apiserver.log",
        )
        self._etcd_url = etcd_url
        self._servers = [etcd, api_server]

    def _audit_options(self) -> tuple[str, ...]:
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        return (f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}")

    async def _start_servers(self) -> None:
        etcd, api_server = self._servers
        if not etcd.running:
            async with httpx.AsyncClient(trust_env=False) as client:
                await etcd.start(lambda: _answers(client, f"{self._etcd_url}/readyz"))
        if not api_server.running:
            await api_server.start(self._api_server_ready)

    async def _api_server_ready(self) -> bool:
        try:
            return (await self.request("GET", "/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def _write_kubeconfig(
        self, path: Path, user: str, token: str, namespace: str = "default"
    ) -> None:
        # JSON is YAML; this spares the demo's first seconds a YAML library.
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "otaflux",
            "clusters": [
                {
                    "name": "otaflux",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": str(self._files.authority),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [
                {
                    "name": "otaflux",
                    "context": {"cluster": "otaflux", "user": user, "namespace": namespace},
                }
            ],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))

    async def _close_client(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _close(self) -> None:
        await self._close_client()
        await super()._close()


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get(url)).status_code == 200
    return False
