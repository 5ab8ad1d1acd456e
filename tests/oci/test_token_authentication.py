"""Compatibility case 5: token servers."""

import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Forbidden,
    OciError,
    RateLimited,
    RealmRefused,
    RegistryClient,
    RegistryError,
    Repository,
    TooLarge,
    Unauthorized,
    resolve,
)
from tests.fixtures.loopback_servers import LoopbackServer, Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, push, read
from tests.fixtures.secrecy import Secrecy
from tests.fixtures.token_servers import SERVICE, Guard, TokenServer, tokens_of
from tests.oci.robots import IDENTITY, PASSWORD, WRONG, encoded, robot, secret


@pytest.fixture(autouse=True)
def _secrets(secrecy: Secrecy) -> None:
    secrecy.keep(PASSWORD, WRONG, IDENTITY, encoded(PASSWORD), encoded(WRONG))


def trusting(program: Path, tokens: TokenServer) -> Registry:
    return Registry(program, config={"auth": {"token": tokens.registry_settings}})


# --- Real registries -------------------------------------------------------------------


@pytest.mark.parametrize("field", ["token", "access_token"])
async def test_case_5_robot(
    registry_program: Path, oras: Oras, tmp_path: Path, secrecy: Secrecy, field: str
) -> None:
    users = {"robot$fw+pull": PASSWORD}
    async with (
        TokenServer(tmp_path, users=users, field=field) as tokens,
        trusting(registry_program, tokens) as registry,
    ):
        await oras(
            "login", "--plain-http", registry.host, "-u", "robot$fw+pull", "--password-stdin",
            input=PASSWORD,
        )  # fmt: skip
        await push(oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http")
        tokens.received.clear()
        repository = Repository(registry.host, NAME)
        credentials = robot(registry.host)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            release = await resolve(client, repository, semver="^1")
            assert await read(client, repository, release.layer) == FIRMWARE
        secrecy.keep(*tokens.issued)
    # One token serves tags, manifest and blob: the scope is the same.
    assert [request.query for request in tokens.received] == [
        {"service": [SERVICE], "scope": [f"repository:{NAME}:pull"]}
    ]
    assert tokens.received[0].headers["authorization"] == f"Basic {encoded(PASSWORD)}"


async def test_case_5_anonymous(
    registry_program: Path, oras: Oras, tmp_path: Path, client: RegistryClient, secrecy: Secrecy
) -> None:
    async with (
        TokenServer(tmp_path, anonymous=("pull", "push"), expires_in=None) as tokens,
        trusting(registry_program, tokens) as registry,
    ):
        await push(oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http")
        tokens.received.clear()
        repository = Repository(registry.host, NAME)
        release = await resolve(client, repository, tag="1.4.0")
        assert await read(client, repository, release.layer) == FIRMWARE
        secrecy.keep(*tokens.issued)
    assert len(tokens.received) == 1
    assert "authorization" not in tokens.received[0].headers


async def test_case_5_insufficient_scope(
    registry_program: Path, tmp_path: Path, client: RegistryClient, secrecy: Secrecy
) -> None:
    async with (
        TokenServer(tmp_path, anonymous=()) as tokens,
        trusting(registry_program, tokens) as registry,
    ):
        with secrecy.raises(Unauthorized, "without credentials.*Name a Secret"):
            await client.manifest(Repository(registry.host, NAME), "1.4.0")
        secrecy.keep(*tokens.issued)
    assert len(tokens.received) == 2  # the one repetition


async def test_case_5_wrong_password(
    registry_program: Path, tmp_path: Path, secrecy: Secrecy
) -> None:
    users = {"robot$fw+pull": PASSWORD}
    async with (
        TokenServer(tmp_path, users=users, anonymous=("pull",)) as tokens,
        trusting(registry_program, tokens) as registry,
    ):
        credentials = robot(registry.host, WRONG)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(Unauthorized, "token server .* refuses the credentials"):
                await client.manifest(Repository(registry.host, NAME), "1.4.0")
    # Although it would have got one: refused credentials are not replaced by none.
    assert len(tokens.received) == 1


async def test_case_5_identity_token(
    registry_program: Path, oras: Oras, tmp_path: Path, secrecy: Secrecy
) -> None:
    async with (
        TokenServer(
            tmp_path,
            identity_tokens=frozenset({IDENTITY}),
            anonymous=("pull", "push"),
            field="access_token",
        ) as tokens,
        trusting(registry_program, tokens) as registry,
    ):
        await push(oras, tmp_path, f"{registry.host}/{NAME}:1.4.0", "--plain-http")
        tokens.anonymous = ()
        tokens.received.clear()
        repository = Repository(registry.host, NAME)
        credentials = secret(registry.host, auth="", identitytoken=IDENTITY)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            assert (await resolve(client, repository, tag="1.4.0")).version == "1.4.0"
        credentials = secret(registry.host, identitytoken=WRONG)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(Unauthorized, "refuses the identity token"):
                await client.manifest(repository, "1.4.0")
        secrecy.keep(*tokens.issued)
    form = tokens.received[0].form
    assert tokens.received[0].method == "POST"
    assert form["grant_type"] == ["refresh_token"]
    assert form["scope"] == [f"repository:{NAME}:pull"]
    assert form["service"] == [SERVICE]


# --- A registry and a token server that do as they like --------------------------------


async def test_case_5_token_expires_in_the_middle_of_a_download(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"}, {"token": "two"})) as tokens:
        guard = Guard(f"{tokens.url}/token", scope="repository:x:pull", error="invalid_token")
        guard.valid = {"one"}

        def broken_off(request: Request) -> Reply | None:
            if "/blobs/" in request.path and "range" not in request.headers:
                guard.valid = {"two"}
                return Reply(body=FIRMWARE, cut=100_000)
            return None

        misbehaving.rules += [broken_off, guard]
        release = await resolve(client, kitchen, tag="1.4.0")
        assert await read(client, kitchen, release.layer) == FIRMWARE
    sent = [request.headers.get("authorization") for request in misbehaving.asked("/blobs/")]
    assert sent == ["Bearer one", "Bearer one", "Bearer two"]
    assert misbehaving.received[-1].headers["range"] == "bytes=100000-"


async def test_case_5_a_token_is_used_until_it_expires(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    now = 1000.0
    async with (
        LoopbackServer(tokens_of({"token": "one", "expires_in": 100})) as tokens,
        RegistryClient(settings=LOOPBACK, insecure=True, limits=QUICK) as client,
    ):
        client._authorizations._clock = lambda: now  # the only clock a token lives by
        guard = Guard(f"{tokens.url}/token")
        guard.valid = {"one"}
        misbehaving.rules.append(guard)
        for moment, expected in ((1000.0, 1), (1089.0, 1), (1091.0, 2), (1092.0, 2)):
            now = moment
            await client.manifest(kitchen, "1.4.0")
            assert len(tokens.received) == expected
    assert len(misbehaving.received) == 5  # asked without a token only once


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(None, 54), (0, 54), (-5, 54), ("x", 54), (True, 54), (30, 27), (10**400, 3240)],
)
async def test_case_5_what_is_said_of_expiry(
    misbehaving: MisbehavingRegistry, kitchen: Repository, expires_in: Any, lifetime: int
) -> None:
    now = 0.0
    document = {"token": "one", "expires_in": expires_in}
    if expires_in is None:
        del document["expires_in"]
    async with (
        LoopbackServer(tokens_of(document)) as tokens,
        RegistryClient(settings=LOOPBACK, insecure=True, limits=QUICK) as client,
    ):
        client._authorizations._clock = lambda: now  # the only clock a token lives by
        guard = Guard(f"{tokens.url}/token")
        guard.valid = {"one"}
        misbehaving.rules.append(guard)
        for moment, expected in ((0.0, 1), (lifetime - 1.0, 1), (lifetime + 1.0, 2)):
            now = moment
            await client.manifest(kitchen, "1.4.0")
            assert len(tokens.received) == expected


@pytest.mark.parametrize("error", ["invalid_token", "insufficient_scope"])
async def test_case_5_one_repetition_with_the_scope_that_is_asked_for(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, error: str
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"}, {"token": "two"})) as tokens:
        guard = Guard(
            f"{tokens.url}/token?a=b", service="s", scope="one:x:pull two:y:pull", error=error
        )
        guard.valid = {"two"}
        misbehaving.rules.append(guard)
        await client.manifest(kitchen, "1.4.0")
        assert [request.query for request in tokens.received] == [
            {"a": ["b"], "service": ["s"], "scope": ["one:x:pull", "two:y:pull"]}
        ] * 2


@pytest.mark.parametrize(("error", "times"), [("invalid_token", 2), ("", 1), ("other", 1)])
async def test_case_5_no_endless_repetition(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    secrecy: Secrecy,
    error: str,
    times: int,
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"}, {"token": "two"})) as tokens:
        misbehaving.rules.append(Guard(f"{tokens.url}/token", error=error))
        with secrecy.raises(Unauthorized):
            await client.manifest(kitchen, "1.4.0")
        assert len(tokens.received) == times
    assert len(misbehaving.received) == times + 1


async def test_case_5_the_repetition_keeps_the_credentials(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    async with LoopbackServer(tokens_of({"token": "one"}, {"token": "two"})) as tokens:
        guard = Guard(f"{tokens.url}/token", error="insufficient_scope")
        guard.valid = {"two"}
        misbehaving.rules.append(guard)
        credentials = robot(misbehaving.host)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            await client.manifest(kitchen, "1.4.0")
        sent = [request.headers.get("authorization") for request in tokens.received]
    assert sent == [f"Basic {encoded(PASSWORD)}"] * 2


async def test_case_5_tokens_are_kept_apart_by_repository(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    misbehaving.push("other/lamp", "1.4.0", FIRMWARE)

    def by_scope(request: Request) -> Reply:
        token = request.query["scope"][0].replace(":", ".").replace("/", "-")
        return Reply(body=json.dumps({"token": token}).encode())

    async with LoopbackServer(by_scope) as tokens:

        def guard(request: Request) -> Reply | None:
            name = "-".join(request.path.split("/")[2:4])
            if request.headers.get("authorization") == f"Bearer repository.{name}.pull":
                return None
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{tokens.url}/token"'})

        misbehaving.rules.append(guard)
        for _ in range(2):
            await client.manifest(kitchen, "1.4.0")
            await client.manifest(Repository(misbehaving.host, "other/lamp"), "1.4.0")
        assert len(tokens.received) == 2
    assert len(misbehaving.received) == 6


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Reply(403), Forbidden, "forbids"),
        (Reply(307, {"Location": "http://127.0.0.1:9/"}), RealmRefused, "redirects"),
        (Reply(404), RegistryError, "answers 404"),
        (Reply(500), RegistryError, "answers 500"),
        (Reply(429, {"Retry-After": "17"}), RateLimited, "17 s"),
        (Reply(body=b"hunter2{"), RegistryError, "JSON object"),
        (Reply(body=b"[]"), RegistryError, "JSON object"),
        (Reply(body=b"{}"), RegistryError, "no usable token"),
        (Reply(body=b'{"token": ""}'), RegistryError, "no usable token"),
        (Reply(body=b'{"token": "hunter2\\r\\nX: y"}'), RegistryError, "no usable token"),
        (Reply(body=b'{"token": ["hunter2"]}'), RegistryError, "no usable token"),
        (Reply(body=b'"' + b"x" * 300_000), TooLarge, "larger than"),
    ],
)
async def test_case_5_token_servers_that_fail(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    secrecy: Secrecy,
    answer: Reply,
    kind: type[OciError],
    message: str,
) -> None:
    secrecy.keep("hunter2")
    async with LoopbackServer(always(answer)) as tokens:
        misbehaving.rules.append(Guard(f"{tokens.url}/token"))
        credentials = robot(misbehaving.host)
        async with RegistryClient(
            settings=LOOPBACK, insecure=True, credentials=credentials, limits=QUICK
        ) as client:
            with secrecy.raises(kind, message):
                await client.manifest(kitchen, "1.4.0")
