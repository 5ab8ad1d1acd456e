"""Compatibility case 7: where Authorization goes when a registry redirects."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otaflux_cli.control_plane.certificates import ServerCertificate, write_server_certificate
from otaflux_oci import (
    Credentials,
    Descriptor,
    DigestMismatch,
    RegistryClient,
    RegistryError,
    Repository,
    Tls,
)
from tests.fixtures.loopback_servers import LoopbackServer, Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, read
from tests.fixtures.secrecy import Secrecy

PASSWORD, SIGNATURE = "correct-horse-7", "X-Amz-Signature=c0ffee"
LAYER = Descriptor("application/octet-stream", sha256(FIRMWARE), len(FIRMWARE))


@pytest.fixture(autouse=True)
def _secrets(secrecy: Secrecy) -> None:
    secrecy.keep(PASSWORD, base64.b64encode(f"robot:{PASSWORD}".encode()).decode(), SIGNATURE)


@pytest.fixture
async def client(misbehaving: MisbehavingRegistry) -> AsyncIterator[RegistryClient]:
    misbehaving.rules.append(guard)
    entry = {"username": "robot", "password": PASSWORD}
    credentials = Credentials.from_dockerconfigjson(
        json.dumps({"auths": {misbehaving.host: entry}})
    )
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        yield client


def guard(request: Request) -> Reply | None:
    if request.path.startswith("/v2/") and "authorization" not in request.headers:
        return Reply(401, {"WWW-Authenticate": "Basic realm=x"})
    return None


def redirecting(registry: MisbehavingRegistry, location: str, status: int = 307) -> None:
    def rule(request: Request) -> Reply | None:
        if "authorization" in request.headers and "/blobs/" in request.path:
            return Reply(status, {"Location": location})
        return None

    registry.rules.append(rule)


class Storage(LoopbackServer):
    """Like S3: 400 for an Authorization header besides the signature."""

    def reply(self, request: Request) -> Reply:
        if "authorization" in request.headers:
            return Reply(400)
        if "range" in request.headers:
            start = int(request.headers["range"][6:-1])
            content_range = f"bytes {start}-{len(FIRMWARE) - 1}/{len(FIRMWARE)}"
            return Reply(206, {"Content-Range": content_range}, FIRMWARE[start:])
        return Reply(body=FIRMWARE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_case_7_another_host_gets_no_authorization(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, status: int
) -> None:
    async with Storage() as storage:
        redirecting(misbehaving, f"http://{storage.other_host}/bucket?{SIGNATURE}", status)
        assert await read(client, kitchen, LAYER) == FIRMWARE
        (request,) = storage.received
    assert request.target == f"/bucket?{SIGNATURE}"
    assert "authorization" not in request.headers


async def test_case_7_another_port_of_the_same_host_gets_no_authorization(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    async with Storage() as storage:
        redirecting(misbehaving, f"{storage.url}/bucket?{SIGNATURE}")
        assert await read(client, kitchen, LAYER) == FIRMWARE
        assert "authorization" not in storage.received[0].headers


async def test_case_7_the_same_origin_keeps_authorization(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    def moved(request: Request) -> Reply | None:
        if request.path == f"/v2/{NAME}/manifests/1.4.0":
            return Reply(308, {"Location": f"/v2/{NAME}/manifests/moved?x=1"})
        return None

    misbehaving.push(NAME, "moved", FIRMWARE)
    misbehaving.rules.insert(0, moved)
    assert (await client.manifest(kitchen, "1.4.0")).layers == (
        await client.manifest(kitchen, "moved")
    ).layers
    assert "authorization" in misbehaving.asked("/manifests/moved")[0].headers


async def test_case_7_authorization_does_not_come_back_from_elsewhere(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    """Registry → elsewhere → registry: only its first hop had to do with the credentials."""
    async with LoopbackServer(
        always(Reply(307, {"Location": f"{misbehaving.url}/public?{SIGNATURE}"}))
    ) as detour:
        redirecting(misbehaving, f"{detour.url}/x")
        misbehaving.rules.append(
            lambda request: Reply(body=FIRMWARE) if request.path == "/public" else None
        )
        assert await read(client, kitchen, LAYER) == FIRMWARE
        assert "authorization" not in detour.received[0].headers
    back = [request for request in misbehaving.received if request.path == "/public"]
    assert ["authorization" in request.headers for request in back] == [False]


async def test_case_7_a_resumption_starts_at_the_registry_again(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    """A signed URL may have expired meanwhile."""
    async with Storage() as storage:
        whole = storage.reply
        storage.reply = (  # type: ignore[method-assign]  # the first transfer breaks
            lambda request: (
                whole(request) if "range" in request.headers else Reply(body=FIRMWARE, cut=1000)
            )
        )
        redirecting(misbehaving, f"http://{storage.other_host}/bucket?{SIGNATURE}")
        assert await read(client, kitchen, LAYER) == FIRMWARE
        ranges = [request.headers.get("range") for request in storage.received]
    assert ranges == [None, "bytes=1000-"]
    assert [request.headers.get("range") for request in misbehaving.asked("/blobs/")] == [
        None,
        None,
        "bytes=1000-",
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_case_7_storage_that_refuses(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    secrecy: Secrecy,
    status: int,
) -> None:
    headers = {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:9/token"'}
    async with LoopbackServer(always(Reply(status, headers))) as storage:
        redirecting(misbehaving, f"http://{storage.other_host}/bucket?{SIGNATURE}")
        with secrecy.raises(RegistryError, f"redirects to localhost.* answers {status}"):
            await read(client, kitchen, LAYER)
        assert all("authorization" not in request.headers for request in storage.received)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "cannot be used"),
        ("http://robot:x@127.0.0.1/", "cannot be used"),
        ("http://[::1", "cannot be used"),
        ("ftp://127.0.0.1/", "cannot be used"),
        ("", "more than 5 times"),
        ("?x", "more than 5 times"),
    ],
)
async def test_case_7_locations_that_lead_nowhere(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    secrecy: Secrecy,
    location: str,
    message: str,
) -> None:
    redirecting(misbehaving, location)
    with secrecy.raises(RegistryError, message):
        await read(client, kitchen, LAYER)


async def test_case_7_redirects_are_bounded(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, secrecy: Secrecy
) -> None:
    async with LoopbackServer(always(Reply(307, {"Location": f"?{SIGNATURE}"}))) as circle:
        redirecting(misbehaving, f"{circle.url}/again")
        with secrecy.raises(RegistryError, "more than 5 times"):
            await read(client, kitchen, LAYER)
        assert len(circle.received) == 5


async def test_case_7_what_comes_from_elsewhere_is_checked_all_the_same(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, secrecy: Secrecy
) -> None:
    async with LoopbackServer(always(Reply(body=b"x" * len(FIRMWARE)))) as storage:
        redirecting(misbehaving, f"{storage.url}/?{SIGNATURE}")
        with secrecy.raises(DigestMismatch):
            await read(client, kitchen, LAYER)


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return write_server_certificate(tmp_path)


async def test_case_7_https_never_becomes_http(
    certificate: ServerCertificate, secrecy: Secrecy
) -> None:
    async with Storage() as storage, MisbehavingRegistry(certificate=certificate) as registry:
        registry.rules.append(
            always(Reply(307, {"Location": f"http://{storage.other_host}/?{SIGNATURE}"}))
        )
        async with RegistryClient(
            settings=LOOPBACK, tls=Tls(ca=certificate.authority.read_bytes()), limits=QUICK
        ) as client:
            with secrecy.raises(RegistryError, "from https to plain http on localhost"):
                await read(client, Repository(registry.host, NAME), LAYER)
        assert not storage.received
