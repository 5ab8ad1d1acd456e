"""Compatibility case 4: Basic authentication."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Credentials,
    Forbidden,
    RegistryClient,
    Repository,
    Unauthorized,
    resolve,
)
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, push, read
from tests.fixtures.secrecy import Secrecy

RIGHT, WRONG = "correct-horse-7", "wrong-battery-8"


def secret(registry: str, password: str, user: str = "robot") -> Credentials:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Credentials.from_dockerconfigjson(json.dumps({"auths": {registry: {"auth": auth}}}))


def encoded(password: str, user: str = "robot") -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(autouse=True)
def _secrets(secrecy: Secrecy) -> None:
    secrecy.keep(RIGHT, WRONG, encoded(RIGHT), encoded(WRONG))


@pytest.fixture
async def kitchen_registry(
    registry_program: Path, oras: Oras, tmp_path: Path
) -> AsyncIterator[Registry]:
    async with Registry(registry_program, users={"robot": RIGHT}) as registry:
        login = ("login", "--plain-http", registry.host, "-u", "robot", "--password-stdin")
        await oras(*login, input=RIGHT)
        await push(oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http")
        yield registry


async def test_case_4_right(kitchen_registry: Registry) -> None:
    repository = Repository(kitchen_registry.host, NAME)
    credentials = secret(kitchen_registry.host, RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        release = await resolve(client, repository, semver="1.x")
        assert await read(client, repository, release.layer) == FIRMWARE
        assert await client.digest(repository, "1.4.0") == release.digest


async def test_case_4_wrong(kitchen_registry: Registry, secrecy: Secrecy) -> None:
    repository = Repository(kitchen_registry.host, NAME)
    credentials = secret(kitchen_registry.host, WRONG)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(Unauthorized, "refuses the credentials.*secretRef"):
            await client.manifest(repository, "1.4.0")
        with secrecy.raises(Unauthorized, "refuses the credentials.*secretRef"):
            await client.tags(repository)


async def test_case_4_none(kitchen_registry: Registry, secrecy: Secrecy) -> None:
    repository = Repository(kitchen_registry.host, NAME)
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=QUICK) as client:
        with secrecy.raises(Unauthorized, "without credentials.*Name a Secret"):
            await client.manifest(repository, "1.4.0")
    credentials = secret("registry.example.com", RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(Unauthorized, "some for: registry.example.com"):
            await client.manifest(repository, "1.4.0")


def guarded(request: Request) -> Reply | None:
    if request.headers.get("authorization") == f"Basic {encoded(RIGHT)}":
        return None
    return Reply(401, {"WWW-Authenticate": 'Basic realm="a, b"'})


async def test_case_4_the_first_request_is_without_credentials_the_later_ones_are_not(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    misbehaving.rules.append(guarded)
    credentials = secret(misbehaving.host, RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        await client.manifest(kitchen, "1.4.0")
        await client.manifest(kitchen, "1.4.0")
    sent = ["authorization" in request.headers for request in misbehaving.received]
    assert sent == [False, True, True]


async def test_case_4_forbidden_is_told_and_never_tried_without_credentials(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    def expired(request: Request) -> Reply | None:
        # As public GHCR: without credentials it would be 200, with expired ones it is 403.
        return Reply(403, body=b'{"errors": [{"code": "DENIED"}]}')

    misbehaving.rules += [expired, guarded]
    credentials = secret(misbehaving.host, RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(Forbidden, "403 DENIED.*secretRef"):
            await client.manifest(kitchen, "1.4.0")
    assert len(misbehaving.received) == 2
    assert "authorization" in misbehaving.received[-1].headers


async def test_case_4_a_registry_that_always_refuses_is_asked_twice(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="x", error="invalid_token"'}
    misbehaving.rules.append(lambda _: Reply(401, challenge))
    credentials = secret(misbehaving.host, RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        for _ in range(2):
            with secrecy.raises(Unauthorized):
                await client.manifest(kitchen, "1.4.0")
    assert len(misbehaving.received) == 3


@pytest.mark.parametrize("challenge", ["Negotiate", "", "Digest realm=x", '"'])
async def test_case_4_unknown_schemes(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy, challenge: str
) -> None:
    misbehaving.rules.append(lambda _: Reply(401, {"WWW-Authenticate": challenge}))
    credentials = secret(misbehaving.host, RIGHT)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(Unauthorized, "neither Basic nor Bearer"):
            await client.manifest(kitchen, "1.4.0")
    assert len(misbehaving.received) == 1
