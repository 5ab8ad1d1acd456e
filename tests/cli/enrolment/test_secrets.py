"""Enrolment into Secrets of a real API server."""

import asyncio
import base64
import json
import ssl
import subprocess
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_cli.enrolment import kube_secrets
from otaflux_policy.tokens import DeviceToken, hash_of
from tests.cli.commands import otaflux_async, otaflux_here
from tests.cli.enrolment.test_certificates import handshake, verified


async def content(plane: ControlPlane, namespace: str, name: str) -> dict[str, bytes]:
    found = await plane.kubectl_json("get", "secret", name, "-n", namespace)
    return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}


async def token(
    plane: ControlPlane, *arguments: str, kubeconfig: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return await otaflux_async(
        "device", "token", *arguments, "--kubeconfig", kubeconfig or plane.kubeconfig
    )


async def test_tokens_are_kept_in_a_secret(control_plane: ControlPlane, namespace: str) -> None:
    plane, secret = control_plane, f"{namespace}/tokens"
    first = await token(plane, "create", "k", "-n", "homes", "--device", "k-1", "--secret", secret)
    assert first.returncode == 0, first.stderr
    await token(plane, "create", "l", "-n", "homes", "--group", "lab", "--secret", secret)
    (key, lines), *others = (await content(plane, namespace, "tokens")).items()
    assert (key, others) == ("tokens.jsonl", [])
    entries = [DeviceToken.loads(line) for line in lines.decode().splitlines()]
    assert [entry.name for entry in entries] == ["k", "l"]
    assert entries[0].sha256 == hash_of(first.stdout.strip())
    assert (await token(plane, "revoke", "k", "--secret", secret)).returncode == 0
    listed = await token(plane, "list", "--secret", secret, "-o", "json")
    assert [entry["name"] for entry in json.loads(listed.stdout)] == ["l"]


async def test_commands_at_the_same_time_lose_nothing(
    control_plane: ControlPlane, namespace: str
) -> None:
    ended = await asyncio.gather(
        *(
            token(
                *(control_plane, "create", f"n{number}", "-n", "homes", "--gateway"),
                *("--secret", f"{namespace}/tokens"),
            )
            for number in range(5)
        )
    )
    data = await content(control_plane, namespace, "tokens")
    kept = {DeviceToken.loads(line).sha256 for line in data["tokens.jsonl"].decode().splitlines()}
    assert kept == {hash_of(one.stdout.strip()) for one in ended}


async def test_other_keys_of_the_secret_stay(control_plane: ControlPlane, namespace: str) -> None:
    await control_plane.kubectl(
        *("create", "secret", "generic", "tokens", "-n", namespace, "--from-literal=mine=kept")
    )
    secret = f"{namespace}/tokens"
    ended = await token(control_plane, "create", "k", "-n", "h", "--gateway", "--secret", secret)
    assert ended.returncode == 0, ended.stderr
    assert (await content(control_plane, namespace, "tokens"))["mine"] == b"kept"


async def test_a_full_secret_says_what_to_do(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    secret = f"{namespace}/tokens"
    (tmp_path / "ids").write_text("".join(f"device-{number}\n" for number in range(9000)))
    batch = ("create", "b", "-n", "homes", "--devices-file", str(tmp_path / "ids"))
    ended = await token(control_plane, *batch, "--secret", secret)
    assert ended.returncode == 1
    assert ended.stdout == "", "no token is told that is not kept"
    assert "larger than 1 MiB" in ended.stderr
    assert "another Secret" in ended.stderr
    # The bound is the API server's own.
    value = base64.b64encode(b"x" * (kube_secrets.MOST_BYTES + 1)).decode()
    body = {"metadata": {"name": "full"}, "data": {"k": value}}
    path = f"/api/v1/namespaces/{namespace}/secrets"
    assert (await control_plane.request("POST", path, body)).status_code == 422
    body = {"metadata": {"name": "just"}, "data": {"k": base64.b64encode(b"x" * 2**20).decode()}}
    assert (await control_plane.request("POST", path, body)).status_code == 201


async def test_what_kubernetes_refuses_says_what_to_do(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    create = ("create", "k", "-n", "homes", "--gateway", "--secret")
    user = control_plane.user_kubeconfig
    ended = await token(control_plane, *create, f"{namespace}/tokens", kubeconfig=user)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "403 Forbidden" in ended.stderr
    assert "You need get, create and patch" in ended.stderr
    ended = await token(control_plane, *create, "absent/tokens")
    assert "there is no namespace absent" in ended.stderr
    nowhere = json.loads(control_plane.kubeconfig.read_text())
    nowhere["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "nowhere").write_text(json.dumps(nowhere))
    ended = await token(control_plane, *create, "n/tokens", kubeconfig=tmp_path / "nowhere")
    assert "the API server cannot be reached" in ended.stderr
    ended = await token(control_plane, *create, "n/tokens", kubeconfig=tmp_path / "absent")
    assert "no usable kubeconfig" in ended.stderr


@pytest.mark.parametrize("name", ["a/b/c", "/b", "a/"])
def test_a_secret_has_a_name(name: str) -> None:
    ended = otaflux_here("device", "token", "list", "--secret", name)
    assert ended.returncode == 2
    assert "write NAME or NAMESPACE/NAME" in ended.stderr


DAMAGED = {
    "no YAML": "users: [{token: 'a-secret",
    "no kubeconfig": "- a-secret",
    "no base64": "{kind: Config, current-context: c, "
    "contexts: [{name: c, context: {cluster: k, user: u}}], "
    "users: [{name: u, user: {token: a-secret}}], "
    "clusters: [{name: k, cluster: {server: 'https://x', certificate-authority-data: '!x'}}]}",
    "no text": "a-secret\x80",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_kubeconfig_is_said_to_be_so_and_not_shown(content: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content, encoding="latin-1")
    ended = otaflux_here("device", "token", "list", "--kubeconfig", file)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: there is no usable kubeconfig")
    assert "a-secret" not in ended.stderr


async def test_an_authority_in_a_secret_issues_and_revokes(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane = control_plane
    where = ("--ca", f"secret:{namespace}/ca", "--kubeconfig", plane.kubeconfig)
    for arguments in (
        ("ca", "create"),
        ("create", "kitchen-1", "-n", "homes", "--out", tmp_path),
    ):
        ended = await otaflux_async("device", "cert", *arguments, *where)
        assert ended.returncode == 0, ended.stderr
    found = await plane.kubectl_json("get", "secret", "ca", "-n", namespace)
    assert found["type"] == "kubernetes.io/tls", "as a cert-manager Issuer wants it"
    ca = tmp_path / "mounted"
    ca.mkdir()
    for key, value in (await content(plane, namespace, "ca")).items():
        (ca / key).write_bytes(value)
    assert {path.name for path in ca.iterdir()} == {
        *("tls.crt", "tls.key", "ca.crt", "crl.pem", "issued.jsonl")
    }
    assert verified(tmp_path / "kitchen-1.crt", ca / "ca.crt", crl=ca / "crl.pem")
    ended = await otaflux_async("device", "cert", "revoke", tmp_path / "kitchen-1.crt", *where)
    assert ended.returncode == 0, ended.stderr
    (ca / "crl.pem").write_bytes((await content(plane, namespace, "ca"))["crl.pem"])
    server = write_server_certificate(tmp_path)
    with pytest.raises(ssl.SSLError, match="revoked"):
        handshake(server, ca, tmp_path / "kitchen-1.crt")
    again = await otaflux_async("device", "cert", "ca", "create", *where)
    assert "nothing was changed" in again.stderr
