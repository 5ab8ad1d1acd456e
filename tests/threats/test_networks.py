"""SSRF: whatever a rollout, a registry or a name server says, no connection goes inside.

The service inside is on 127.0.0.2; the registry on 127.0.0.1 is the only address allowed.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress

import httpcore
import pytest

from otaflux_oci import (
    AddressRefused,
    Basic,
    Credentials,
    OciError,
    RegistryClient,
    RegistryError,
    RegistrySettings,
    Repository,
    connections,
    links,
)
from otaflux_operator.registries import RegistrySources as Lookups
from otaflux_policy.contract import Artifact
from otaflux_policy.credentials import RegistryAccess
from otaflux_server.registries import PullCredentials
from otaflux_server.registries import RegistrySources as Pulls
from tests.fixtures.loopback_servers import LoopbackServer, Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.name_servers import Names
from tests.fixtures.oci_sources import FIRMWARE, NAME, QUICK
from tests.fixtures.token_servers import Guard

SETTINGS = RegistrySettings.model_validate({"allowed_networks": ["127.0.0.1/32"]})
SPELLINGS = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
]
"""Of metadata services."""

CREDENTIALS = json.dumps({"token": "credentials-of-the-cloud"}).encode()
BOTH = pytest.mark.parametrize("mitigated", [True, False])


@pytest.fixture
async def registry() -> AsyncIterator[MisbehavingRegistry]:
    async with MisbehavingRegistry() as registry:
        registry.push(NAME, "1.4.0", FIRMWARE)
        yield registry


@pytest.fixture
async def inside(registry: MisbehavingRegistry) -> AsyncIterator[LoopbackServer]:
    """Has the port of the registry, so that names lead to either."""
    async with LoopbackServer(
        always(Reply(body=CREDENTIALS)), address="127.0.0.2", port=registry.port
    ) as inside:
        yield inside


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    known = Names()
    monkeypatch.setattr(socket, "getaddrinfo", known.getaddrinfo)
    return known


def without_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "is_allowed", lambda *_: True)


Ask = Callable[[RegistryClient, Repository], Awaitable[object]]


async def ask_manifest(client: RegistryClient, repository: Repository) -> object:
    return await client.manifest(repository, "1.4.0")


async def ask_tags(client: RegistryClient, repository: Repository) -> object:
    return await client.tags(repository)


async def ask_blob(client: RegistryClient, repository: Repository) -> object:
    layer = (await client.manifest(repository, "1.4.0")).layers[0]
    async with client.blob(repository, layer) as parts:
        return [part async for part in parts]


def redirect(location: str, path: str) -> Callable[[Request], Reply | None]:
    return lambda request: Reply(307, {"Location": location}) if path in request.path else None


def ways(host: str) -> dict[str, tuple[Callable[[Request], Reply | None] | None, Ask]]:
    """How a registry, or the rollout itself, can send us to `host`."""
    url = f"http://{host}/latest/meta-data"
    return {
        "the rollout names it": (None, ask_manifest),
        "a manifest is redirected": (redirect(url, "/manifests/"), ask_manifest),
        "a tag list is redirected": (redirect(url, "/tags/"), ask_tags),
        "a blob is redirected": (redirect(url, "/blobs/"), ask_blob),
        "it is the realm": (Guard(url), ask_manifest),
    }


async def attack(ask: Ask, repository: Repository, *, mitigated: bool) -> None:
    async with RegistryClient(settings=SETTINGS, insecure=True, limits=QUICK) as client:
        if mitigated:
            with pytest.raises(AddressRefused, match="OTAFLUX_REGISTRIES__ALLOWED_NETWORKS"):
                await ask(client, repository)
        else:
            with suppress(OciError):  # what came is no manifest, but it came
                await ask(client, repository)


@BOTH
@pytest.mark.parametrize("way", ways(""))
async def test_a_service_inside(
    registry: MisbehavingRegistry,
    inside: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    mitigated: bool,
) -> None:
    if not mitigated:
        without_the_filter(monkeypatch)
    rule, ask = ways(inside.host)[way]
    if rule is not None:
        registry.rules.append(rule)
    first = registry.host if rule is not None else inside.host
    await attack(ask, Repository(first, NAME), mitigated=mitigated)
    assert bool(inside.received) is not mitigated


@BOTH
@pytest.mark.parametrize(
    ("way", "host"),
    [
        (way, host)
        for way in ways("")
        for host in SPELLINGS
        # No repository has an IPv6 address for a registry.
        if way != "the rollout names it" or not host.startswith("[")
    ],
)
async def test_the_metadata_service_of_a_cloud(
    registry: MisbehavingRegistry,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    host: str,
    mitigated: bool,
) -> None:
    """No machine of ours has one: connections that would go there are counted and refused."""
    reached: list[str] = []
    real = httpcore.AnyIOBackend.connect_tcp

    async def connect(
        self: httpcore.AnyIOBackend,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if host == "127.0.0.1":
            return await real(self, host, port, timeout, local_address, socket_options)
        reached.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    if not mitigated:
        without_the_filter(monkeypatch)
    rule, ask = ways(host)[way]
    if rule is not None:
        registry.rules.append(rule)
    first = registry.host if rule is not None else f"{host}:80"
    await attack(ask, Repository(first, NAME), mitigated=mitigated)
    assert bool(reached) is not mitigated


@BOTH
async def test_a_name_that_leads_inside(
    registry: MisbehavingRegistry,
    inside: LoopbackServer,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    names.answers["registry.test"] = ["127.0.0.2"]
    if not mitigated:
        without_the_filter(monkeypatch)
    repository = Repository(f"registry.test:{registry.port}", NAME)
    await attack(ask_manifest, repository, mitigated=mitigated)
    assert bool(inside.received) is not mitigated


@BOTH
async def test_a_name_that_leads_elsewhere_once_it_was_checked(
    registry: MisbehavingRegistry,
    inside: LoopbackServer,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """DNS rebinding. The mitigation is to connect to the address that was checked."""
    if not mitigated:
        monkeypatch.setattr(connections.AllowedConnections, "connect_tcp", _by_name)
    names.successive["registry.test"] = [["127.0.0.1"]]
    names.answers["registry.test"] = ["127.0.0.2"]
    repository = Repository(f"registry.test:{registry.port}", NAME)
    async with RegistryClient(settings=SETTINGS, insecure=True, limits=QUICK) as client:
        with suppress(OciError):
            await client.manifest(repository, "1.4.0")
    assert bool(inside.received) is not mitigated
    assert bool(registry.received) is mitigated
    assert names.lookups == ["registry.test"] * (1 if mitigated else 2)


async def _by_name(
    self: connections.AllowedConnections,
    host: str,
    port: int,
    timeout: float | None = None,
    local_address: str | None = None,
    socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
) -> httpcore.AsyncNetworkStream:
    """What everybody writes first: checks the name, and then connects to the name."""
    addresses = await asyncio.get_running_loop().run_in_executor(
        None, lambda: [found[4][0] for found in socket.getaddrinfo(host, port)]
    )
    assert "127.0.0.2" not in addresses
    return await httpcore.AnyIOBackend().connect_tcp(host, port, timeout)


@BOTH
async def test_a_tag_list_that_goes_on_elsewhere(
    registry: MisbehavingRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """To an address that is allowed: it would get the credentials."""
    if not mitigated:
        monkeypatch.setattr(links, "origin", lambda _: ("http", "same", 80))

    async with LoopbackServer(always(Reply(body=b'{"tags": ["9.9.9"]}'))) as thief:

        def tags(request: Request) -> Reply | None:
            if "authorization" not in request.headers:
                return Reply(401, {"WWW-Authenticate": "Basic realm=x"})
            link = f'<{thief.url}/v2/{NAME}/tags/list?n=1000>; rel="next"'
            return Reply(headers={"Link": link}, body=b'{"tags": ["1.4.0"]}')

        registry.rules.append(tags)
        async with RegistryClient(
            settings=SETTINGS,
            insecure=True,
            credentials=Credentials({registry.host: Basic("robot", "correct-horse-7")}),
            limits=QUICK,
        ) as client:
            if mitigated:
                with pytest.raises(RegistryError, match="continues on another host"):
                    await client.tags(Repository(registry.host, NAME))
                assert not thief.received
            else:
                await client.tags(Repository(registry.host, NAME))
                assert "authorization" in thief.received[0].headers


@BOTH
async def test_a_tag_list_that_goes_on_inside(
    registry: MisbehavingRegistry,
    inside: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """Even if such links were followed, the address would be looked at."""
    monkeypatch.setattr(links, "origin", lambda _: ("http", "same", 80))
    if not mitigated:
        without_the_filter(monkeypatch)
    link = f'<{inside.url}/latest/meta-data>; rel="next"'
    registry.rules.append(
        lambda request: (
            Reply(headers={"Link": link}, body=b'{"tags": ["1.4.0"]}')
            if "/tags/" in request.path
            else None
        )
    )
    await attack(ask_tags, Repository(registry.host, NAME), mitigated=mitigated)
    assert bool(inside.received) is not mitigated


@BOTH
@pytest.mark.parametrize("part", ["operator", "server"])
async def test_operator_and_server_by_default(
    registry: MisbehavingRegistry, monkeypatch: pytest.MonkeyPatch, part: str, mitigated: bool
) -> None:
    if not mitigated:
        without_the_filter(monkeypatch)
    repository = Repository(registry.host, NAME)
    firmware = Artifact(
        digest="sha256:" + "0" * 64,
        size=1,
        media_type="x",
        repository=str(repository),
        insecure=True,
    )
    opened = (
        Lookups(RegistrySettings()).open(repository, RegistryAccess(), insecure=True)
        if part == "operator"
        else Pulls(PullCredentials(), RegistrySettings(), max_artifact_bytes=1)(firmware)
    )
    async with opened as source:
        if mitigated:
            with pytest.raises(AddressRefused):
                await source.manifest(repository, "1.4.0")
        else:
            await source.manifest(repository, "1.4.0")
    assert bool(registry.received) is not mitigated
