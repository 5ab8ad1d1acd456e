"""What a realm that is not as it should be gets to see: nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_oci import (
    AddressRefused,
    Credentials,
    Descriptor,
    RealmRefused,
    RegistryClient,
    RegistryError,
    RegistrySettings,
    Repository,
    Tls,
    TooLarge,
    Unauthorized,
)
from tests.fixtures.loopback_servers import LoopbackServer, Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.name_servers import Names
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, read
from tests.fixtures.secrecy import Secrecy
from tests.fixtures.token_servers import Guard, tokens_of
from tests.oci.robots import IDENTITY, PASSWORD, WRONG, encoded, robot, secret


@pytest.fixture(autouse=True)
def _secrets(secrecy: Secrecy) -> None:
    secrecy.keep(PASSWORD, WRONG, IDENTITY, encoded(PASSWORD), encoded(WRONG))


async def test_credentials_go_to_another_host_only_if_it_is_trusted(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"})) as tokens:
        guard = Guard(f"http://{tokens.other_host}/token")
        guard.valid = {"one"}
        misbehaving.rules.append(guard)
        credentials = robot(misbehaving.host)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(RealmRefused, f"sent to {tokens.other_host}.*trusted realm hosts"):
                await client.manifest(kitchen, "1.4.0")
        assert not tokens.received
        for trusted in ("localhost", tokens.other_host):
            async with RegistryClient(
                insecure=True,
                credentials=credentials,
                settings=LOOPBACK.model_copy(update={"trusted_realm_hosts": (trusted,)}),
                limits=QUICK,
            ) as client:
                await client.manifest(kitchen, "1.4.0")
        assert len(tokens.received) == 2
        # Without credentials there is nothing to steal: Docker Hub's realm is another host too.
        async with RegistryClient(settings=LOOPBACK, insecure=True, limits=QUICK) as client:
            await client.manifest(kitchen, "1.4.0")
        assert "authorization" not in tokens.received[-1].headers


async def test_https_registry_with_a_plain_realm(tmp_path: Path, secrecy: Secrecy) -> None:
    certificate = write_server_certificate(tmp_path)
    async with (
        LoopbackServer(tokens_of({"token": "one"})) as tokens,
        MisbehavingRegistry(certificate=certificate) as registry,
    ):
        registry.rules.append(Guard(f"{tokens.url}/token"))
        repository = Repository(registry.host, NAME)
        tls = Tls(ca=certificate.authority.read_bytes())
        for credentials in (robot(registry.host), None):
            async with RegistryClient(
                settings=LOOPBACK, credentials=credentials, tls=tls, limits=QUICK
            ) as client:
                with secrecy.raises(RealmRefused, "plain http"):
                    await client.manifest(repository, "1.4.0")
        assert not tokens.received


async def test_token_servers_do_not_redirect(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"})) as thief:
        elsewhere = Reply(302, {"Location": f"{thief.url}/token"})
        async with LoopbackServer(always(elsewhere)) as tokens:
            misbehaving.rules.append(Guard(f"{tokens.url}/token"))
            for credentials in (
                robot(misbehaving.host),
                secret(misbehaving.host, identitytoken=IDENTITY),
            ):
                async with RegistryClient(
                    settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
                ) as client:
                    with secrecy.raises(RealmRefused, "redirects"):
                        await client.manifest(kitchen, "1.4.0")
        assert not thief.received


@pytest.mark.parametrize(
    "realm",
    ["", "token", "/token", "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://u:p@h/",
     "http://[::1", "http://127.0.0.1:99999/", "http://xn--a.com/", "http://a b.com/", "http://%00/"],
)  # fmt: skip
async def test_realms_that_are_no_url(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy, realm: str
) -> None:
    misbehaving.rules.append(Guard(realm))
    credentials = robot(misbehaving.host)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(RegistryError, "URL that cannot be used"):
            await client.manifest(kitchen, "1.4.0")


async def test_identity_tokens_are_no_password(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    misbehaving.rules.append(lambda _: Reply(401, {"WWW-Authenticate": "Basic realm=x"}))
    credentials = secret(misbehaving.host, identitytoken=IDENTITY)
    async with RegistryClient(
        settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
    ) as client:
        with secrecy.raises(Unauthorized, "wants user name and password"):
            await client.manifest(kitchen, "1.4.0")
    assert all("authorization" not in request.headers for request in misbehaving.received)


# --- Realms that lead inside: `inside` is on 127.0.0.2, of which nothing is allowed ----------


@pytest.fixture
async def inside() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(tokens_of({"token": "one"}), address="127.0.0.2") as inside:
        yield inside


def narrow(*trusted: str) -> RegistrySettings:
    return RegistrySettings.model_validate(
        {"allowed_networks": ["127.0.0.1/32"], "trusted_realm_hosts": trusted}
    )


def accounts(host: str) -> list[Credentials | None]:
    return [robot(host), secret(host, identitytoken=IDENTITY), None]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "2130706434",
        "0x7f000002",
        "127.2",
        "169.254.169.254",
        "loopback.test",
        "private.test",
        "metadata.test",
    ],
)
async def test_case_6_a_realm_inside(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    inside: LoopbackServer,
    names: Names,
    secrecy: Secrecy,
    host: str,
) -> None:
    """It gets no credentials; and where it would be trusted, or none are needed, no connection."""
    names.answers |= {
        "loopback.test": ["127.0.0.2"],
        "private.test": ["10.11.12.13", "fd00::1"],
        "metadata.test": ["169.254.169.254"],
    }
    misbehaving.rules.append(Guard(f"http://{host}:{inside.port}/token"))
    for credentials in accounts(misbehaving.host):
        for settings in (narrow(), narrow(host)):
            refusal = AddressRefused if settings.trusted_realm_hosts or not credentials else None
            async with RegistryClient(
                settings=settings, insecure=True, credentials=credentials, limits=QUICK
            ) as client:
                with secrecy.raises(refusal or RealmRefused, host):
                    await client.manifest(kitchen, "1.4.0")
    assert not inside.received
    assert all("authorization" not in request.headers for request in misbehaving.received)


async def test_a_realm_on_the_host_of_the_registry_whose_name_leads_inside_by_then(
    misbehaving: MisbehavingRegistry, inside: LoopbackServer, names: Names, secrecy: Secrecy
) -> None:
    misbehaving.rules.append(Guard(f"http://registry.test:{inside.port}/token"))
    host = f"registry.test:{misbehaving.port}"
    for credentials in accounts(host):
        names.successive["registry.test"] = [["127.0.0.1"]]
        names.answers["registry.test"] = ["127.0.0.2"]
        async with RegistryClient(
            settings=narrow(), insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(AddressRefused, "registry.test"):
                await client.manifest(Repository(host, NAME), "1.4.0")
    assert not inside.received


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/", "/tags/"])
async def test_a_redirect_inside_after_the_login(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    inside: LoopbackServer,
    secrecy: Secrecy,
    path: str,
) -> None:
    def rule(request: Request) -> Reply | None:
        if "authorization" not in request.headers:
            return Reply(401, {"WWW-Authenticate": "Basic realm=x"})
        if path in request.path:
            return Reply(307, {"Location": f"{inside.url}/latest/meta-data"})
        return None

    misbehaving.rules.append(rule)
    layer = Descriptor("application/octet-stream", sha256(FIRMWARE), len(FIRMWARE))
    async with RegistryClient(
        settings=narrow(), insecure=True, credentials=robot(misbehaving.host), limits=QUICK
    ) as client:
        with secrecy.raises(AddressRefused, "127.0.0.2"):
            if path == "/tags/":
                await client.tags(kitchen)
            elif path == "/blobs/":
                await read(client, kitchen, layer)
            else:
                await client.manifest(kitchen, "1.4.0")
    assert not inside.received


async def test_an_endless_answer_of_a_token_server(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    """It is read up to its limit, and not asked for again."""
    endless = Reply(body=b'{"token": "' + b"x" * 4_000_000, announced=None)
    async with LoopbackServer(always(endless)) as tokens:
        misbehaving.rules.append(Guard(f"{tokens.url}/token"))
        credentials = robot(misbehaving.host)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(TooLarge, "larger than 262144"):
                await client.manifest(kitchen, "1.4.0")
        assert len(tokens.received) == 1
    assert len(misbehaving.received) == 1
