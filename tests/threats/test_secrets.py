"""Whoever may write FirmwareRollouts in one namespace gets at no Secret of another."""

import base64
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import CommandFailed
from otaflux_operator import resolving
from otaflux_operator.accesses import registry_access
from otaflux_operator.kubernetes.apis import Api
from otaflux_operator.kubernetes.secrets import KubernetesSecrets
from tests.control_plane.test_api_servers import until_it_works
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.operator.clusters import Rollout, docker_config_secret, eventually, operating
from tests.rbac.audits import objects

RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "namespaced"
PASSWORD = "a-password-of-the-victim"
AUTHORIZATION = "Basic " + base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
CREDENTIALS = "otaflux-pull-credentials"

both = pytest.mark.parametrize("mitigated", [True, False])


def wants_basic(request: Request) -> Reply | None:
    if request.headers.get("authorization") == AUTHORIZATION:
        return None
    return Reply(401, {"WWW-Authenticate": 'Basic realm="firmware"'})


@pytest.fixture
async def victim(control_plane: ControlPlane, namespace: str) -> str:
    name = f"{namespace[:50]}-victim"
    await control_plane.create_namespace(name)
    return name


@pytest.fixture
async def registry(control_plane: ControlPlane, victim: str) -> AsyncIterator[MisbehavingRegistry]:
    """One that the victim alone has credentials for: `robot`."""
    async with MisbehavingRegistry() as registry:
        registry.push("firmware", "1.0.0", b"firmware of the victim")
        registry.rules.append(wants_basic)
        secret = docker_config_secret("robot", registry.host, "robot", PASSWORD)
        await control_plane.kubectl("apply", "-n", victim, "-f", "-", input=secret)
        yield registry


@both
async def test_a_rollout_names_a_secret_of_another_namespace(
    control_plane: ControlPlane,
    namespace: str,
    victim: str,
    registry: MisbehavingRegistry,
    mitigated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not mitigated:
        inner = registry_access

        @functools.wraps(inner)
        async def anywhere(secrets: Any, _namespace: str, *others: Any) -> Any:
            return await inner(secrets, victim, *others)

        monkeypatch.setattr(resolving, "registry_access", anywhere)
    rollout = Rollout(control_plane, namespace)
    artifact = {"secretRef": {"name": "robot"}}
    async with operating(control_plane, namespace):
        await rollout.apply(f"{registry.host}/firmware", "1.0.0", artifact=artifact)
        if mitigated:
            await rollout.has("ArtifactResolved", "False/SecretNotFound")
            told = json.dumps([await rollout.get(), await rollout.events()])
            assert PASSWORD not in told
            assert registry.received == [], "the registry was not even asked"
            path = f"/api/v1/namespaces/{namespace}/secrets/{CREDENTIALS}"
            entries = (await control_plane.request("GET", path)).json().get("data") or {}
            assert not [key for key in entries if key.endswith(".json")], "nor does a server know"
        else:
            await rollout.completes("1.0.0")
            sent = {request.headers.get("authorization") for request in registry.received}
            assert AUTHORIZATION in sent


@both
async def test_the_name_of_a_secret_is_a_path_to_another_namespace(
    control_plane: ControlPlane, namespace: str, victim: str, mitigated: bool
) -> None:
    """The pattern of the field is what keeps it out: the path itself leads there."""
    await control_plane.kubectl(
        *("create", "secret", "generic", "robot", "-n", victim, f"--from-literal=p={PASSWORD}")
    )
    name = f"../../{victim}/secrets/robot"
    if mitigated:
        with pytest.raises(CommandFailed, match=r"secretRef\.name.*Invalid value"):
            await Rollout(control_plane, namespace).apply(
                "registry.example.com/a", "1.0.0", artifact={"secretRef": {"name": name}}
            )
        return
    async with Api(control_plane.kubeconfig) as api:
        found = await KubernetesSecrets(api).secret(namespace, name)
    assert found == {"p": PASSWORD.encode()}


async def allowed(
    plane: ControlPlane, kubeconfig: Path, *arguments: str, input: str | None = None
) -> bool:
    try:
        await plane.kubectl(*arguments, kubeconfig=kubeconfig, input=input)
    except CommandFailed as error:
        if "Forbidden" not in error.stderr:
            raise
        return False
    return True


async def installed(
    plane: ControlPlane, system: str, watched: str, *, narrow: bool
) -> tuple[Path, Path]:
    """Kubeconfigs of operator and server by our Roles; with `narrow` off without their bounds."""
    items = objects(RBAC, namespaces=[watched])
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    listed = listed.replace('"otaflux-system"', json.dumps(system))
    if not narrow:
        wide = json.loads(listed)
        for item in wide["items"]:
            for rule in item.get("rules", ()):
                rule.pop("resourceNames", None)
            if item["kind"] == "Role" and item["metadata"]["name"] == "otaflux-operator-watched":
                item["kind"] = "ClusterRole"
            if item.get("roleRef", {}).get("name") == "otaflux-operator-watched":
                item["kind"], item["roleRef"]["kind"] = "ClusterRoleBinding", "ClusterRole"
        listed = json.dumps(wide).replace("otaflux-operator-watched", f"{system}-operator")
    await plane.kubectl("apply", "-f", "-", input=listed)
    operator = await plane.service_account_kubeconfig(system, "otaflux-operator")
    server = await plane.service_account_kubeconfig(system, "otaflux-server")
    for kubeconfig in (operator, server):
        await until_it_works(plane, "get", "configmaps", "-n", watched, kubeconfig=kubeconfig)
    return operator, server


@both
async def test_a_program_that_was_taken_over_looks_for_other_secrets(
    control_plane: ControlPlane, namespace: str, victim: str, mitigated: bool
) -> None:
    plane, system = control_plane, f"{namespace[:50]}-system"
    await plane.create_namespace(system)
    for where, name in ((victim, "robot"), (system, "database"), (system, CREDENTIALS)):
        await plane.kubectl("create", "secret", "generic", name, "-n", where)
    operator, server = await installed(plane, system, namespace, narrow=mitigated)
    get = ("get", "secrets")
    selected = ("-n", system, "--field-selector")

    async def one_secret() -> bool:
        return await allowed(plane, server, *get, *selected, f"metadata.name={CREDENTIALS}")

    await eventually(one_secret, lambda found: found)  # what it is meant for
    others = {
        "operator: another namespace": await allowed(plane, operator, *get, "-n", victim, "robot"),
        "operator: another one of its own": await allowed(
            plane, operator, *get, "-n", system, "database"
        ),
        "server: another name": await allowed(
            plane, server, *get, *selected, "metadata.name=database"
        ),
        "server: all": await allowed(plane, server, *get, "-n", system),
    }
    assert set(others.values()) == {not mitigated}, others


@both
async def test_the_operator_makes_a_secret_that_gives_it_another_account(
    control_plane: ControlPlane, namespace: str, mitigated: bool
) -> None:
    """A Secret of this type gets a token of the account that it names."""
    plane, system = control_plane, f"{namespace[:50]}-system"
    await plane.create_namespace(system)
    operator, _ = await installed(plane, system, namespace, narrow=mitigated)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "mine",
            "annotations": {"kubernetes.io/service-account.name": "otaflux-server"},
        },
        "type": "kubernetes.io/service-account-token",
    }
    made = await allowed(plane, operator, "create", "-n", system, "-f", "-", input=json.dumps(body))
    assert made is not mitigated
