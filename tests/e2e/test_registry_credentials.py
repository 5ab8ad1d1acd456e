"""Credentials of registries from kubectl to the device: rotated, private CAs, other namespaces."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import bcrypt
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.certificates import ServerCertificate, write_server_certificate
from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.installations import Firmware, Installation, canaries, condition, rollout
from tests.fixtures.tls_servers import new_client_certificate
from tests.fixtures.token_servers import TokenServer

OLD, NEW = Firmware.make("1.3.2"), Firmware.make("1.4.0")
USER, FIRST, SECOND = "robot$home+pull", "first-password", "second-password"
NAME = "firmware/thermostat"

SetPassword = Callable[[str], None]
Registries = AbstractAsyncContextManager[tuple[Registry, SetPassword]]


@asynccontextmanager
async def basic(program: Path, folder: Path) -> AsyncIterator[tuple[Registry, SetPassword]]:
    """htpasswd, which the registry reads again when it changes."""
    async with Registry(program, users={USER: FIRST}) as registry:

        def set_password(password: str) -> None:
            hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()
            (registry.folder / "htpasswd").write_text(f"{USER}:{hashed}\n")

        yield registry, set_password


@asynccontextmanager
async def tokens(program: Path, folder: Path) -> AsyncIterator[tuple[Registry, SetPassword]]:
    async with TokenServer(folder, users={USER: FIRST}) as server:
        config = {"auth": {"token": server.registry_settings}}
        async with Registry(program, config=config) as registry:
            yield registry, lambda password: server.users.update({USER: password})


async def push(oras: Oras, folder: Path, registry: Registry, firmware: Firmware, *how: str) -> None:
    (folder / "firmware.bin").write_bytes(firmware.data)
    target = f"{registry.host}/{NAME}:{firmware.version}"
    file = "firmware.bin:application/octet-stream"
    await oras("push", *how, target, file, cwd=folder)


async def pull_secret(installation: Installation, registry: Registry, password: str) -> None:
    """As people do it, the second time too."""
    made = await installation.kubectl(
        "create", "secret", "docker-registry", "robot", f"--docker-server={registry.host}",
        f"--docker-username={USER}", f"--docker-password={password}", "--dry-run=client",
        "-o", "json",
    )  # fmt: skip
    await installation.plane.kubectl("-n", installation.namespace, "apply", "-f", "-", input=made)


@pytest.mark.parametrize("kind", [basic, tokens])
async def test_case_4_a_rotated_secret_is_used_by_operator_and_server(
    installation: Installation,
    registry_program: Path,
    oras: Oras,
    tmp_path: Path,
    kind: Callable[[Path, Path], Registries],
) -> None:
    async with kind(registry_program, tmp_path) as (registry, set_password):
        await push(oras, tmp_path, registry, OLD, "--plain-http", "-u", USER, "-p", FIRST)
        await push(oras, tmp_path, registry, NEW, "--plain-http", "-u", USER, "-p", FIRST)
        await pull_secret(installation, registry, FIRST)
        repository = f"{registry.host}/{NAME}"
        named = {"secretRef": {"name": "robot"}, "interval": "1s"}
        await installation.apply(
            canaries("kitchen-1"), rollout(repository, "1.3.2", artifact=named)
        )
        await installation.gets("kitchen-1", OLD)

        set_password(SECOND)
        refused = await installation.reaches(
            lambda status: condition(status, "ArtifactResolved").get("reason") == "Unauthorized"
        )
        assert "secretRef" in condition(refused, "ArtifactResolved")["message"]
        await installation.gets("kitchen-1", OLD)

        await pull_secret(installation, registry, SECOND)
        await installation.reaches(
            lambda status: condition(status, "ArtifactResolved").get("reason") == "Resolved"
        )
        await installation.apply(rollout(repository, "1.4.0", artifact=named))
        await installation.gets("kitchen-1", NEW)


class Guarded(Registry):
    """Wants client certificates, which the one who waits for its start does not have."""

    async def _answers(self) -> bool:
        host, _, port = self.host.partition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return write_server_certificate(tmp_path)


async def test_a_private_ca_and_a_client_certificate(
    installation: Installation,
    registry_program: Path,
    oras: Oras,
    tmp_path: Path,
    certificate: ServerCertificate,
) -> None:
    own = new_client_certificate()
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    cert.write_bytes(own.certificate)
    key.write_bytes(own.key)
    tls = {
        "certificate": str(certificate.certificate),
        "key": str(certificate.key),
        "clientcas": [str(cert)],
    }
    async with Guarded(
        registry_program, certificate=certificate, config={"http": {"tls": tls}}
    ) as registry:
        ca = str(certificate.authority)
        shown = ("--ca-file", ca, "--cert-file", str(cert), "--key-file", str(key))
        await push(oras, tmp_path, registry, OLD, *shown)
        files = [f"--from-file=ca.crt={ca}"]
        await installation.kubectl("create", "secret", "generic", "harbor-ca", *files)
        files += [f"--from-file=tls.crt={cert}", f"--from-file=tls.key={key}"]
        await installation.kubectl("create", "secret", "generic", "harbor-client", *files)

        def named(*secret: str) -> dict[str, object]:
            artifact: dict[str, object] = {"insecure": False, "interval": "1s"}
            return artifact | ({"certSecretRef": {"name": secret[0]}} if secret else {})

        repository = f"{registry.host}/{NAME}"
        await installation.apply(canaries("kitchen-1"))
        for artifact in (named(), named("harbor-ca")):
            await installation.apply(rollout(repository, "1.3.2", artifact=artifact))
            await installation.reaches(
                lambda status: condition(status, "ArtifactResolved").get("reason") == "TlsFailed"
            )
        await installation.apply(rollout(repository, "1.3.2", artifact=named("harbor-client")))
        await installation.gets("kitchen-1", OLD)


async def test_a_secret_of_another_namespace_is_none(
    installation: Installation,
    control_plane: ControlPlane,
    registry_v3: Registry,
    oras: Oras,
    tmp_path: Path,
) -> None:
    other = f"{installation.namespace}-other"
    await control_plane.create_namespace(other)
    await control_plane.kubectl(
        "-n", other, "create", "secret", "docker-registry", "robot",
        f"--docker-server={registry_v3.host}", f"--docker-username={USER}",
        f"--docker-password={FIRST}",
    )  # fmt: skip
    await push(oras, tmp_path, registry_v3, OLD, "--plain-http")
    repository = f"{registry_v3.host}/{NAME}"
    await installation.apply(
        rollout(repository, "1.3.2", artifact={"secretRef": {"name": "robot"}})
    )
    status = await installation.reaches(
        lambda status: condition(status, "ArtifactResolved").get("reason") == "SecretNotFound"
    )
    assert installation.namespace in condition(status, "ArtifactResolved")["message"]
    for name in (f"{other}/robot", f"../{other}/robot"):
        with pytest.raises(Exception, match=r"spec\.artifact\.secretRef\.name"):
            await installation.apply(
                rollout(repository, "1.3.2", artifact={"secretRef": {"name": name}})
            )
