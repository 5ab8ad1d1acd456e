"""The API server that everything else is tested on."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import PLAIN_USER, ControlPlane
from otaflux_cli.control_plane.processes import CommandFailed, StartFailed

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\ndata: {key: value}\n"


async def until_it_works(plane: ControlPlane, *arguments: str, kubeconfig: Path) -> None:
    """Repeat a kubectl command until it is allowed: RBAC takes effect after a moment."""
    async with asyncio.timeout(30):
        while True:
            try:
                await plane.kubectl(*arguments, kubeconfig=kubeconfig)
            except CommandFailed as error:
                if "Forbidden" not in error.stderr:
                    raise
                await asyncio.sleep(0.05)
            else:
                return


async def test_kubectl_talks_to_the_api_server(control_plane: ControlPlane, namespace: str) -> None:
    versions = await control_plane.kubectl_json("version")
    assert versions["serverVersion"]["gitVersion"].startswith("v1.36.")
    assert versions["clientVersion"]["gitVersion"].startswith("v1.36.")
    await control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=CONFIG_MAP)
    kept = await control_plane.kubectl_json("get", "configmap", "kept", "-n", namespace)
    assert kept["data"] == {"key": "value"}


async def test_each_test_has_a_namespace_of_its_own(
    control_plane: ControlPlane, namespace: str
) -> None:
    assert (await control_plane.kubectl("get", "configmap", "-n", namespace, "-o", "name")) == ""


async def test_refusals_carry_what_kubectl_said(
    control_plane: ControlPlane, namespace: str
) -> None:
    with pytest.raises(CommandFailed, match='configmaps "absent" not found') as refused:
        await control_plane.kubectl("get", "configmap", "absent", "-n", namespace)
    assert refused.value.returncode == 1


async def test_the_plain_user_may_do_nothing_until_a_role_allows_it(
    control_plane: ControlPlane, namespace: str
) -> None:
    user = control_plane.user_kubeconfig
    with pytest.raises(CommandFailed, match=f'"{PLAIN_USER}" cannot list resource "secrets"'):
        await control_plane.kubectl("get", "secrets", "-n", namespace, kubeconfig=user)
    await control_plane.kubectl(
        "create", "role", "reader", "-n", namespace, "--verb=list", "--resource=secrets"
    )
    await control_plane.kubectl(
        "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--user={PLAIN_USER}"
    )
    await until_it_works(control_plane, "get", "secrets", "-n", namespace, kubeconfig=user)


async def test_a_service_account_gets_a_kubeconfig(
    control_plane: ControlPlane, namespace: str
) -> None:
    await control_plane.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    kubeconfig = await control_plane.service_account_kubeconfig(namespace, "robot")
    who = await control_plane.kubectl_json("auth", "whoami", kubeconfig=kubeconfig)
    username = who["status"]["userInfo"]["username"]
    assert username == f"system:serviceaccount:{namespace}:robot"


async def test_secrets_are_readable_by_their_owner_only(control_plane: ControlPlane) -> None:
    for path in (control_plane.kubeconfig, control_plane.user_kubeconfig):
        assert path.stat().st_mode & 0o077 == 0
    assert control_plane.folder.stat().st_mode & 0o077 == 0


async def test_stop_and_start_keep_data_and_address(fresh_control_plane: ControlPlane) -> None:
    plane = fresh_control_plane
    await plane.kubectl("apply", "-f", "-", input=CONFIG_MAP)
    url = plane.url
    await plane.stop()
    assert not plane.running
    with pytest.raises(CommandFailed, match="connect"):
        await plane.kubectl("get", "configmap", "kept")
    await plane.start()
    assert plane.running
    assert plane.url == url
    await plane.kubectl("get", "configmap", "kept")
    await plane.restart_api_server()
    await plane.kubectl("get", "configmap", "kept")


async def test_the_end_of_the_log_tells_why_a_start_failed(
    fresh_control_plane: ControlPlane,
) -> None:
    plane = fresh_control_plane
    await plane.stop()
    (plane.folder / "tokens.csv").unlink()
    with pytest.raises(StartFailed, match=r"(?s)kube-apiserver ended.*tokens\.csv: no such file"):
        await plane.start()
    assert not plane.running


async def test_garbage_is_collected_once_the_collector_runs(
    garbage_collector: ControlPlane, namespace: str
) -> None:
    plane = garbage_collector
    await plane.kubectl("create", "configmap", "owner", "-n", namespace)
    owner = await plane.kubectl_json("get", "configmap", "owner", "-n", namespace)
    await plane.kubectl(
        "create", "-n", namespace, "-f", "-",
        input=textwrap.dedent(
            f"""
            apiVersion: v1
            kind: ConfigMap
            metadata:
              name: owned
              ownerReferences:
              - {{apiVersion: v1, kind: ConfigMap, name: owner, uid: {owner["metadata"]["uid"]}}}
            """
        ),
    )  # fmt: skip
    await plane.kubectl("delete", "configmap", "owner", "-n", namespace)
    await plane.kubectl("wait", "--for=delete", "configmap/owned", "-n", namespace, "--timeout=60s")
