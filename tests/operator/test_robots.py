"""Secrets for the accounts of each vendor, made by the real kubectl as docs/registries.md says.

They are read from the real API server and used at real registries; by the operator, and by the
server once it got them from the operator.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import Repository, Unauthorized, resolve
from otaflux_operator.accesses import registry_access
from otaflux_operator.kubernetes.apis import Api
from otaflux_operator.kubernetes.secrets import KubernetesSecrets
from otaflux_operator.registries import RegistrySources
from otaflux_operator.resources import Artifact, SecretReference
from otaflux_policy import contract
from otaflux_policy.credentials import RegistryAccess, entry_key, entry_name
from otaflux_server.registries import PullCredentials
from otaflux_server.registries import RegistrySources as ServerSources
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, push, read
from tests.fixtures.token_servers import TokenServer

KEY_FILE = json.dumps(
    {
        "type": "service_account",
        "private_key": "-----BEGIN %s KEY-----\nMIIE:+/=\n-----END %s KEY-----\n"
        % (("PRIVATE",) * 2),
        "client_email": "otaflux@project.iam.gserviceaccount.com",
    },
    indent=2,
)


@dataclass(frozen=True)
class Robot:
    """`basic`: its registry takes Basic itself instead of sending to a token server."""

    user: str
    password: str
    basic: bool = False


ROBOTS = {
    "Harbor": Robot("robot$home+otaflux", "Kp7'\"$(x)`9 Zq"),
    "GHCR": Robot("otaflux-bot", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    "GAR, token": Robot("oauth2accesstoken", "ya29.c.b0Aaekm1K" + "x" * 900),
    "GAR, key file": Robot("_json_key", KEY_FILE),
    "GAR, key file in base64": Robot(
        "_json_key_base64", base64.b64encode(KEY_FILE.encode()).decode()
    ),
    "ECR": Robot("AWS", "eyJwYXlsb2FkIjoi" + "x" * 40 + "==", basic=True),
    "GitLab": Robot("gitlab+deploy-token-7", "gldt-aBc_123"),
    "htpasswd": Robot("otaflux", "päss:wörd", basic=True),
}


@asynccontextmanager
async def registry_of(robot: Robot, program: Path, folder: Path) -> AsyncIterator[Registry]:
    if robot.basic:
        async with Registry(program, users={robot.user: robot.password}) as registry:
            yield registry
        return
    async with TokenServer(folder, users={robot.user: robot.password}) as tokens:
        config = {"auth": {"token": tokens.registry_settings}}
        async with Registry(program, config=config) as registry:
            yield registry


async def create(
    plane: ControlPlane, namespace: str, name: str, registry: str, robot: Robot
) -> None:
    await plane.kubectl(
        "-n", namespace, "create", "secret", "docker-registry", name,
        f"--docker-server={registry}", f"--docker-username={robot.user}",
        f"--docker-password={robot.password}",
    )  # fmt: skip


async def access_of(
    plane: ControlPlane, namespace: str, name: str, repository: Repository
) -> RegistryAccess:
    spec = Artifact(repository=str(repository), tag="1.4.0", secret_ref=SecretReference(name=name))
    async with Api(plane.kubeconfig) as api:
        return await registry_access(KubernetesSecrets(api), namespace, spec, repository)


@pytest.mark.parametrize("vendor", ROBOTS)
async def test_a_secret_made_by_kubectl_works_unchanged(
    control_plane: ControlPlane,
    namespace: str,
    registry_program: Path,
    oras: Oras,
    tmp_path: Path,
    vendor: str,
) -> None:
    robot = ROBOTS[vendor]
    async with registry_of(robot, registry_program, tmp_path) as registry:
        await push(
            oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http",
            "-u", robot.user, "-p", robot.password,
        )  # fmt: skip
        repository = Repository(registry.host, NAME)
        await create(control_plane, namespace, "robot", registry.host, robot)
        found = await access_of(control_plane, namespace, "robot", repository)
        assert (found.username, found.password) == (robot.user, robot.password)

        lookups = RegistrySources(LOOPBACK)
        async with lookups.open(repository, found, insecure=True) as source:
            release = await resolve(source, repository, semver="1.x")
        wrong = RegistryAccess(username=robot.user, password="expired")
        async with lookups.open(repository, wrong, insecure=True) as source:
            with pytest.raises(Unauthorized):
                await source.manifest(repository, "1.4.0")

        credentials = PullCredentials()
        entry = entry_name(found)
        credentials.replace({entry_key(entry): found.dumps().encode()})
        firmware = contract.Artifact(
            digest=release.layer.digest,
            size=release.layer.size,
            media_type=release.layer.media_type,
            repository=str(repository),
            insecure=True,
            credentials=entry,
        )
        pulls = ServerSources(credentials, LOOPBACK, max_artifact_bytes=len(FIRMWARE))
        async with pulls(firmware) as source:
            assert await read(source, repository, release.layer) == FIRMWARE


async def test_a_docker_configuration_works_unchanged(
    control_plane: ControlPlane,
    namespace: str,
    registry_program: Path,
    oras: Oras,
    tmp_path: Path,
) -> None:
    """What a real login wrote, put into a Secret in both ways that Kubernetes documents."""
    robot = ROBOTS["Harbor"]
    async with registry_of(robot, registry_program, tmp_path) as registry:
        file = tmp_path / "config.json"
        await oras(
            "login", "--plain-http", "--registry-config", str(file), registry.host,
            "-u", robot.user, "--password-stdin", input=robot.password,
        )  # fmt: skip
        option = f"--from-file=.dockerconfigjson={file}"
        typed = "--type=kubernetes.io/dockerconfigjson"
        create = ("-n", namespace, "create", "secret")
        await control_plane.kubectl(*create, "docker-registry", "one", option)
        await control_plane.kubectl(*create, "generic", "two", typed, option)
        await push(
            oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http",
            "--registry-config", str(file),
        )  # fmt: skip
        repository = Repository(registry.host, NAME)
        for name in ("one", "two"):
            found = await access_of(control_plane, namespace, name, repository)
            async with RegistrySources(LOOPBACK).open(repository, found, insecure=True) as source:
                assert await source.tags(repository) == ["1.4.0"]


@pytest.mark.parametrize(
    ("server", "repository"),
    [
        ("https://index.docker.io/v1/", "otaflux/thermostat"),
        ("ghcr.io", "ghcr.io/otaflux/thermostat"),
        ("https://ghcr.io", "ghcr.io/otaflux/thermostat"),
        ("europe-docker.pkg.dev", "europe-docker.pkg.dev/project/firmware/thermostat"),
        ("https://europe-docker.pkg.dev", "europe-docker.pkg.dev/project/firmware/thermostat"),
        (
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com/thermostat",
        ),
        ("https://harbor.example.com", "harbor.example.com/home/thermostat"),
        ("harbor.example.com:8443", "harbor.example.com:8443/home/thermostat"),
    ],
)
async def test_servers_as_vendors_write_them(
    control_plane: ControlPlane, namespace: str, server: str, repository: str
) -> None:
    robot = Robot("somebody", "something")
    await create(control_plane, namespace, "robot", server, robot)
    found = await access_of(control_plane, namespace, "robot", Repository.parse(repository))
    assert (found.username, found.password) == ("somebody", "something")
