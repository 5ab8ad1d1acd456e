"""Policies and credentials through a real API server: list, watch, expiry, loss and return."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from kubernetes.aio.client import ApiClient

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_policy.contract import (
    MANAGED_BY_LABEL,
    POLICY_KEY,
    group_object_name,
    policy_object_name,
)
from otaflux_policy.credentials import RegistryAccess, entry_key
from otaflux_server import watching
from otaflux_server.kubernetes import KubernetesSource
from otaflux_server.registries import CredentialsMissing, PullCredentials
from otaflux_server.serving import UpdateServer
from otaflux_server.watching import Collection
from tests.server.fleets import MemorySource, firmware, group, policy, release, settings, until
from tests.server.signatures import config_map, public_file

CONTENT = firmware("1.4.0")


async def apply(plane: ControlPlane, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    await plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)


@asynccontextmanager
async def serving(
    plane: ControlPlane, namespace: str | None, data_dir: Path, **fields: Any
) -> AsyncIterator[UpdateServer]:
    """A server that watches `namespace` (None: all) of the cluster."""
    options = settings(
        data_dir,
        kubeconfig=plane.kubeconfig,
        watch_namespaces=() if namespace is None else (namespace,),
        default_namespace=namespace or "default",
        credentials_namespace=namespace or "default",
        **fields,
    )
    options = options.model_copy(
        update={"policy_keys": fields.get("policy_keys", public_file(data_dir / "keys"))}
    )
    credentials = PullCredentials()
    artifacts = MemorySource()
    artifacts.add(CONTENT)
    async with UpdateServer(
        options,
        source=KubernetesSource(options, credentials),
        artifact_source=artifacts,
        credentials=credentials,
    ) as server:
        yield server


async def version(server: UpdateServer, device: str = "kitchen-1") -> str:
    async with httpx.AsyncClient(base_url=server.device_url) as client:
        answer = await client.get("/version", params={"device": device})
        return answer.text.partition("\n")[0]


async def gets(server: UpdateServer, wanted: str, device: str = "kitchen-1") -> None:
    async def answered() -> bool:
        return (await version(server, device)).startswith(wanted)

    await until(answered)


async def test_policies_are_listed_watched_edited_and_removed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    first = policy(namespace=namespace, target=release("1.4.0", CONTENT), sequence=1)
    await apply(control_plane, config_map(first))
    async with serving(control_plane, namespace, tmp_path) as server:
        await gets(server, "1.4.0")
        assert server.policies.disconnection == ""
        paused = policy(
            namespace=namespace, target=release("1.4.0", CONTENT), sequence=2, state="Paused"
        )
        await apply(control_plane, config_map(paused))
        await gets(server, "Error: no update (Paused)")
        await control_plane.kubectl(
            "delete", "configmap", policy_object_name("thermostat"), "-n", namespace
        )
        await gets(server, "Error: no update (NoMatch)")
        assert server.served(namespace, "thermostat").run == 1


async def test_groups_give_labels(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    chosen = policy(
        namespace=namespace,
        target=release("1.4.0", CONTENT),
        device_selector={"matchLabels": {"ring": "canary"}},
    )
    members = group(
        "canaries", namespace=namespace, names=("kitchen-*",), labels={"ring": "canary"}
    )
    await apply(control_plane, config_map(chosen), config_map(members))
    async with serving(control_plane, namespace, tmp_path) as server:
        await gets(server, "1.4.0")
        assert (await version(server, "cellar-1")).startswith("Error: no update (NoMatch)")
        await control_plane.kubectl(
            "delete", "configmap", group_object_name("canaries"), "-n", namespace
        )
        await gets(server, "Error: no update (NoMatch)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"priority":0', '"priority":7'),
        lambda text: text[:-20],
        lambda text: text.replace('"schemaVersion":1', '"schemaVersion":2'),
        lambda text: text[:0],
        lambda text: None if text else text,
    ],
    ids=["edited", "cut", "unknown version", "empty", "no key"],
)
async def test_a_damaged_policy_is_refused_and_the_last_good_one_stays(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    damage: Callable[[str], str | None],
) -> None:
    good = policy(namespace=namespace, target=release("1.4.0", CONTENT))
    await apply(control_plane, config_map(good))
    bad = config_map(good)
    text = damage(bad["data"][POLICY_KEY])
    bad["data"] = {} if text is None else {POLICY_KEY: text}
    async with serving(control_plane, namespace, tmp_path) as server:
        await gets(server, "1.4.0")
        await apply(control_plane, bad)
        await until(lambda: bool(server.policies.rejected(namespace, "thermostat")))
        assert (await version(server)).startswith("1.4.0")
        assert server.served(namespace, "thermostat").revision == good.revision
    # Also across a restart, though the list holds only the damaged one.
    async with serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: not server.policies.disconnection)
        await gets(server, "1.4.0")
        assert server.served(namespace, "thermostat").rejected
        await apply(control_plane, config_map(good))
        await until(lambda: not server.policies.rejected(namespace, "thermostat"))


async def test_a_renamed_policy_is_not_used(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    moved = config_map(policy(namespace=namespace, target=release("1.4.0", CONTENT)))
    moved["metadata"]["name"] = policy_object_name("other")
    await apply(control_plane, moved)
    async with serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: bool(server.policies.rejected(namespace, "other")))
        assert "another object" in server.policies.rejected(namespace, "other")
        # Whoever may write ConfigMaps holds nobody by a copy.
        assert (await version(server)).startswith("Error: no update (NoMatch)")


async def test_what_went_while_the_server_was_down_is_gone(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    item = policy(namespace=namespace, target=release("1.4.0", CONTENT))
    await apply(control_plane, config_map(item))
    async with serving(control_plane, namespace, tmp_path) as server:
        await gets(server, "1.4.0")
    await control_plane.kubectl(
        "delete", "configmap", policy_object_name("thermostat"), "-n", namespace
    )
    async with serving(control_plane, namespace, tmp_path) as server:
        await gets(server, "Error: no update (NoMatch)")
        assert server.served(namespace, "thermostat").run == 1


async def test_other_config_maps_are_left_alone(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    item = config_map(policy(namespace=namespace, target=release("1.4.0", CONTENT)))
    del item["metadata"]["labels"][MANAGED_BY_LABEL]
    strange = config_map(policy("x", namespace=namespace))
    strange["metadata"]["name"] = "somebody-elses"
    await apply(control_plane, item, strange)
    async with serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: not server.policies.disconnection)
        assert server.policies.policies() == []


async def test_all_namespaces_can_be_watched(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    item = policy(namespace=namespace, target=release("1.4.0", CONTENT))
    await apply(control_plane, config_map(item))
    async with serving(control_plane, None, tmp_path) as server:
        await until(lambda: server.policies.policy(namespace, "thermostat") is not None)
        digest = item.releases[0].firmware.digest
        await until(lambda: server.artifacts.get(digest) is not None)
        async with httpx.AsyncClient(base_url=server.device_url) as client:
            path = f"/t/{namespace}/version?device=kitchen-1"
            assert (await client.get(path)).status_code == 200
            assert (await client.get("/version?device=kitchen-1")).status_code == 404


async def test_the_list_is_read_in_pages(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_PAGE", 2)
    names = [f"rollout-{i}" for i in range(5)]
    await apply(control_plane, *(config_map(policy(n, namespace=namespace)) for n in names))
    async with serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: len(server.policies.policies()) == 5)


async def test_an_expired_watch_lists_again(
    fresh_control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its restart the API server holds no changes as old as revision 1, and says 410."""
    await apply(fresh_control_plane, config_map(policy(namespace="default")))
    await fresh_control_plane.restart_api_server()
    listed = watching._list
    lists: list[str] = []

    async def stale(api: ApiClient, collection: Collection) -> tuple[list[Any], str]:
        objects, version = await listed(api, collection)
        if collection.path.endswith("secrets"):
            return objects, version
        lists.append(version)
        return objects, "1" if len(lists) < 3 else version

    monkeypatch.setattr(watching, "_list", stale)
    with structlog.testing.capture_logs() as logs:
        async with serving(fresh_control_plane, "default", tmp_path) as server:
            await until(lambda: len(lists) == 3)
            item = policy(namespace="default", target=release("1.4.0", CONTENT), sequence=1)
            await apply(fresh_control_plane, config_map(item))
            await gets(server, "1.4.0")
    assert [entry["event"] for entry in logs].count("watch expired, listing again") == 2


async def test_a_silent_watch_is_opened_again(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with serving(control_plane, namespace, tmp_path, watch_idle_seconds=0.2) as server:
        await until(lambda: "TimeoutError" in server.policies.disconnection)
        item = policy(namespace=namespace, target=release("1.4.0", CONTENT))
        await apply(control_plane, config_map(item))
        await gets(server, "1.4.0")


async def test_the_api_server_may_go_and_come_back(
    fresh_control_plane: ControlPlane, tmp_path: Path
) -> None:
    plane = fresh_control_plane
    namespace = "default"
    first = policy(namespace=namespace, target=release("1.4.0", CONTENT), sequence=1)
    await apply(plane, config_map(first))
    async with serving(plane, namespace, tmp_path) as server:
        await gets(server, "1.4.0")
        await plane.stop(kill=True)
        await until(lambda: bool(server.policies.disconnection))
        assert (await version(server)).startswith("1.4.0")
        async with httpx.AsyncClient(base_url=server.internal_url) as client:
            ready = await client.get("/readyz?verbose")
            assert ready.status_code == 200
            assert "unreachable" in ready.json()["detail"]["disconnected"]
            metrics = (await client.get("/metrics")).text
            assert "otaflux_policy_source_connected 0.0" in metrics
    # A restart while the API server is away serves what was known.
    async with serving(plane, namespace, tmp_path) as server:
        assert server.policies.ready
        assert (await version(server)).startswith("1.4.0")
        await plane.start()
        await until(lambda: not server.policies.disconnection)
        paused = policy(
            namespace=namespace, target=release("1.4.0", CONTENT), sequence=2, state="Paused"
        )
        await apply(plane, config_map(paused))
        await gets(server, "Error: no update (Paused)")
        # And now within one process.
        await plane.restart_api_server()
        aborted = policy(
            namespace=namespace, target=release("1.4.0", CONTENT), sequence=3, state="Aborted"
        )
        await apply(plane, config_map(aborted))
        await gets(server, "Error: no update (Aborted)")


async def test_without_any_cluster_nothing_is_ready(tmp_path: Path) -> None:
    options = settings(tmp_path, kubeconfig=tmp_path / "missing")
    async with UpdateServer(options, source=KubernetesSource(options)) as server:
        await until(lambda: "no cluster from" in server.policies.disconnection)
        assert (await version(server)).startswith("Error: no update (Hold)")
        async with httpx.AsyncClient(base_url=server.internal_url) as client:
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200


async def test_the_one_secret_is_followed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    access = RegistryAccess(username="robot", password="hunter2")

    def secret(name: str, **data: str) -> dict[str, Any]:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}

    async with serving(control_plane, namespace, tmp_path) as server:
        await until(lambda: not server.policies.disconnection)
        other = secret("another", **{entry_key("b" * 32): access.dumps()})
        ours = secret("otaflux-pull-credentials", **{entry_key("a" * 32): access.dumps()})
        await apply(control_plane, other, ours)

        def known(name: str) -> bool:
            try:
                return server.credentials.access(name) == access
            except CredentialsMissing:
                return False

        await until(lambda: known("a" * 32))
        assert not known("b" * 32)
        assert "hunter2" not in repr(server.credentials)
        await control_plane.kubectl("delete", "secret", "otaflux-pull-credentials", "-n", namespace)
        await until(lambda: not known("a" * 32))
