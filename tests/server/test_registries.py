"""Artifacts from real registries, with the credentials that the operator hands over."""

import asyncio
import base64
import json
import shutil
from pathlib import Path

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_policy.canonical import dumps
from otaflux_policy.contract import Policy
from otaflux_policy.credentials import RegistryAccess, entry_key, entry_name
from otaflux_policy.served import ArtifactState
from otaflux_server.registries import CredentialsInvalid, CredentialsMissing, PullCredentials
from otaflux_server.serving import UpdateServer
from tests.server.fleets import NAMESPACE, firmware, policy, release, settings, until

CONTENT = firmware("1.4.0", 2_000_000)
ACCESS = RegistryAccess(username="robot", password="hunter2-very-secret")


async def push(oras: Oras, registry: Registry, repository: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "fw.bin").write_bytes(CONTENT)
    reference = f"{registry.host}/{repository}:1.4.0"
    await oras("push", "--plain-http", reference, "fw.bin:application/octet-stream", cwd=folder)


def offered(registry: Registry, repository: str, **fields: object) -> Policy:
    values = {"repository": f"{registry.host}/{repository}", "insecure": True} | fields
    return policy(target=release("1.4.0", CONTENT, **values))


async def state(server: UpdateServer, wanted: ArtifactState, reason: str = "") -> None:
    def reached() -> bool:
        (artifact,) = server.served(NAMESPACE, "thermostat").artifacts
        return artifact.state is wanted and artifact.reason == reason

    await until(reached)


async def test_a_pull_by_digest(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path
) -> None:
    await push(oras, registry, repository, tmp_path / "push")
    item = offered(registry, repository)
    async with UpdateServer(settings(tmp_path / "data")) as server:
        server.policies.apply_policy(NAMESPACE, item.name, dumps(item))
        await state(server, ArtifactState.STORED)
        stored = server.artifacts.get(item.releases[0].firmware.digest)
        assert stored is not None
        assert stored.path.read_bytes() == CONTENT


async def test_a_registry_that_comes_later(
    registry_program: Path, oras: Oras, repository: str, tmp_path: Path
) -> None:
    async with Registry(registry_program) as registry:
        await push(oras, registry, repository, tmp_path / "push")
        await registry.stop()
        item = offered(registry, repository)
        async with UpdateServer(settings(tmp_path / "data")) as server:
            server.policies.apply_policy(NAMESPACE, item.name, dumps(item))
            await state(server, ArtifactState.FAILED, "RegistryUnreachable")
            await registry.start()
            await state(server, ArtifactState.STORED)


async def test_a_blob_that_does_not_exist(registry_v3: Registry, tmp_path: Path) -> None:
    item = offered(registry_v3, "no/such/repository")
    async with UpdateServer(settings(tmp_path)) as server:
        server.policies.apply_policy(NAMESPACE, item.name, dumps(item))
        await state(server, ArtifactState.FAILED, "NotFound")


async def test_credentials_are_used_once_they_are_there(
    registry_program: Path, oras: Oras, repository: str, tmp_path: Path
) -> None:
    users = {ACCESS.username: ACCESS.password}
    async with Registry(registry_program, users=users) as registry:
        await oras(
            "login", "--plain-http", "-u", ACCESS.username, "-p", ACCESS.password, registry.host
        )
        await push(oras, registry, repository, tmp_path / "push")
        name = await asyncio.to_thread(entry_name, ACCESS)
        anonymous = offered(registry, repository)
        private = offered(registry, repository, credentials=name)
        async with UpdateServer(settings(tmp_path / "data")) as server:
            server.policies.apply_policy(NAMESPACE, anonymous.name, dumps(anonymous))
            await state(server, ArtifactState.FAILED, "Unauthorized")
            server.policies.apply_policy(NAMESPACE, private.name, dumps(private))
            await state(server, ArtifactState.FAILED, "CredentialsMissing")
            wrong = RegistryAccess(username="robot", password="wrong").dumps()
            server.credentials.replace({entry_key(name): wrong.encode()})
            await state(server, ArtifactState.FAILED, "Unauthorized")
            server.credentials.replace({entry_key(name): ACCESS.dumps().encode()})
            await state(server, ArtifactState.STORED)


class TestPullCredentials:
    def test_what_is_wrong_is_said_without_the_secret(self) -> None:
        credentials = PullCredentials()
        texts = {
            "a": ACCESS.dumps().encode() + b"x",
            "b": b"\xff" + ACCESS.password.encode(),
            "c": json.dumps({"password": [ACCESS.password]}).encode(),
            "d": json.dumps({"usrname": ACCESS.password}).encode(),
        }
        credentials.replace({entry_key(name): text for name, text in texts.items()})
        for name in texts:
            with pytest.raises(CredentialsInvalid) as caught:
                credentials.access(name)
            error: BaseException | None = caught.value
            while error is not None:
                assert ACCESS.password not in repr(error)
                error = error.__cause__ or error.__context__
        with pytest.raises(CredentialsMissing, match="missing-one"):
            credentials.access("missing-one")
        assert ACCESS.password not in repr(credentials)

    def test_only_changes_are_told(self) -> None:
        credentials, told = PullCredentials(), []
        credentials.subscribe(lambda: told.append("changed"))
        for _ in range(2):
            credentials.replace({"x": b"1"})
        assert told == ["changed"]


async def test_no_secret_is_ever_logged(
    registry_program: Path,
    oras: Oras,
    repository: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Everything that goes wrong with credentials, at debug level, against a real registry."""
    users = {ACCESS.username: ACCESS.password}
    name = await asyncio.to_thread(entry_name, ACCESS)
    async with Registry(registry_program, users=users) as registry:
        item = offered(registry, repository, credentials=name)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        options = settings(tmp_path / "data", log_level="debug")
        async with UpdateServer(options) as server:
            server.policies.apply_policy(NAMESPACE, item.name, dumps(item))
            entries = [
                (ACCESS.dumps() + "x", "CredentialsInvalid"),
                (RegistryAccess(username="x", password=ACCESS.password).dumps(), "Unauthorized"),
                (ACCESS.dumps(), "NotFound"),
            ]
            for text, reason in entries:
                server.credentials.replace({entry_key(name): text.encode()})
                await state(server, ArtifactState.FAILED, reason)
            told = server.served(NAMESPACE, "thermostat").model_dump_json()
            told += server.metrics.text().decode()
    logged = capfd.readouterr()
    pair = f"{ACCESS.username}:{ACCESS.password}".encode()
    assert "artifact not pulled" in logged.out + logged.err
    for secret in (ACCESS.password, base64.b64encode(pair).decode()):
        assert secret not in logged.out + logged.err + told
