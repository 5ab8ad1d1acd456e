"""What a realm that is not as it should be gets to see: nothing."""

from pathlib import Path

import pytest

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_oci import (
    RealmRefused,
    RegistryClient,
    RegistryError,
    Repository,
    Tls,
    Unauthorized,
)
from tests.fixtures.loopback_servers import LoopbackServer, Reply, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import NAME, QUICK
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
        async with RegistryClient(insecure=True, credentials=credentials, limits=QUICK) as client:
            with secrecy.raises(RealmRefused, f"sent to {tokens.other_host}.*trusted realm hosts"):
                await client.manifest(kitchen, "1.4.0")
        assert not tokens.received
        for trusted in ("localhost", tokens.other_host):
            async with RegistryClient(
                insecure=True, credentials=credentials, trusted_realm_hosts=[trusted], limits=QUICK
            ) as client:
                await client.manifest(kitchen, "1.4.0")
        assert len(tokens.received) == 2
        # Without credentials there is nothing to steal: Docker Hub's realm is another host too.
        async with RegistryClient(insecure=True, limits=QUICK) as client:
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
            async with RegistryClient(credentials=credentials, tls=tls, limits=QUICK) as client:
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
                    insecure=True, credentials=credentials, limits=QUICK
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
    async with RegistryClient(insecure=True, credentials=credentials, limits=QUICK) as client:
        with secrecy.raises(RegistryError, "URL that cannot be used"):
            await client.manifest(kitchen, "1.4.0")


async def test_identity_tokens_are_no_password(
    misbehaving: MisbehavingRegistry, kitchen: Repository, secrecy: Secrecy
) -> None:
    misbehaving.rules.append(lambda _: Reply(401, {"WWW-Authenticate": "Basic realm=x"}))
    credentials = secret(misbehaving.host, identitytoken=IDENTITY)
    async with RegistryClient(insecure=True, credentials=credentials, limits=QUICK) as client:
        with secrecy.raises(Unauthorized, "wants user name and password"):
            await client.manifest(kitchen, "1.4.0")
    assert all("authorization" not in request.headers for request in misbehaving.received)
