"""From Secrets to what registry and servers need, and how it is handed over."""

import asyncio
import base64
import json
from dataclasses import replace

import pytest

from otaflux_oci import Repository
from otaflux_operator.accesses import SecretProblem, registry_access
from otaflux_operator.ports import Key, Unavailable
from otaflux_operator.resources import Artifact, SecretReference
from otaflux_policy.credentials import InvalidAccess, RegistryAccess, entry_name
from tests.operator.fakes import QUICK, Cluster, eventually, running, with_rollout
from tests.operator.worlds import REPOSITORY

PASSWORD = "correct horse battery staple"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ROBOT = SecretReference(name="robot")


def docker_config(registry: str = "registry.example.com", **auth: str) -> dict[str, bytes]:
    auth = auth or {"username": "robot", "password": PASSWORD}
    return {".dockerconfigjson": json.dumps({"auths": {registry: auth}}).encode()}


async def access(secrets: dict[str, dict[str, bytes]], **artifact: object) -> RegistryAccess:
    cluster = Cluster()
    cluster.secrets = {("home", name): data for name, data in secrets.items()}
    spec = Artifact.model_validate({"repository": REPOSITORY, "tag": "1"} | artifact)
    return await registry_access(cluster.ports.secrets, "home", spec, Repository.parse(REPOSITORY))


async def test_without_secrets_it_is_empty() -> None:
    assert (await access({})).is_empty


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"username": "u", "password": "p"}, RegistryAccess(username="u", password="p")),
        (
            {"auth": base64.b64encode(b"u:p").decode()},
            RegistryAccess(username="u", password="p"),
        ),
        ({"identitytoken": "t"}, RegistryAccess(identity_token="t")),
    ],
)
async def test_only_what_is_for_the_registry_is_taken(
    auth: dict[str, str], expected: RegistryAccess
) -> None:
    data = docker_config(**auth)
    config = json.loads(data[".dockerconfigjson"])
    config["auths"]["other.example.com"] = {"username": "other", "password": "other"}
    data = {".dockerconfigjson": json.dumps(config).encode()}
    assert await access({"robot": data}, secret_ref=ROBOT) == expected


async def test_certificates() -> None:
    data = {"ca.crt": PEM.encode(), "tls.crt": PEM.encode(), "tls.key": PEM.encode()}
    found = await access({"ca": data}, cert_secret_ref=SecretReference(name="ca"))
    assert found == RegistryAccess(ca=PEM, cert=PEM, key=PEM)


@pytest.mark.parametrize(
    ("secrets", "reason", "text"),
    [
        ({}, "SecretNotFound", "spec.artifact.secretRef names the Secret robot"),
        ({"robot": {}}, "SecretInvalid", "kubectl create secret docker-registry"),
        ({"robot": {".dockerconfigjson": PASSWORD.encode()}}, "SecretInvalid", "not JSON"),
        (
            {"robot": docker_config("other.example.com")},
            "SecretInvalid",
            "no credentials for registry.example.com/firmware/thermostat",
        ),
    ],
)
async def test_a_pull_secret_that_cannot_be_used(
    secrets: dict[str, dict[str, bytes]], reason: str, text: str
) -> None:
    with pytest.raises(SecretProblem, match=text) as caught:
        await access(secrets, secret_ref=ROBOT)
    assert caught.value.reason == reason
    assert PASSWORD not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"ca.crt": b"no pem"},
        {"ca.crt": b"-----BEGIN CERTIFICATE-----\xff"},
        {"ca.crt": PEM.encode(), "tls.crt": PEM.encode()},
        {"tls.key": PEM.encode()},
    ],
)
async def test_a_certificate_secret_that_cannot_be_used(data: dict[str, bytes]) -> None:
    with pytest.raises(SecretProblem) as caught:
        await access({"ca": data}, cert_secret_ref=SecretReference(name="ca"))
    assert caught.value.reason == "SecretInvalid"


def test_an_entry_shows_nothing_and_is_named_by_its_content() -> None:
    entry = RegistryAccess(username="robot", password=PASSWORD, ca=PEM)
    assert RegistryAccess.loads(entry.dumps()) == entry
    assert PASSWORD not in f"{entry!r} {entry}"
    assert entry_name(entry) == entry_name(RegistryAccess.loads(entry.dumps()))
    assert entry_name(entry) != entry_name(RegistryAccess(username="robot", password="other"))


@pytest.mark.parametrize(
    "text",
    [
        "[",
        '{"other": "s3cret"}',
        '{"password": 5}',
        '{"username": "u", "identityToken": "s3cret"}',
        '{"cert": "s3cret"}',
    ],
)
def test_a_wrong_entry_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(InvalidAccess) as caught:
        RegistryAccess.loads(text)
    assert "s3cret" not in str(caught.value)
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)


def with_secret() -> tuple[Cluster, Key]:
    artifact = {
        "repository": REPOSITORY,
        "tag": "1.0.0",
        "interval": "1s",
        "secretRef": {"name": "robot"},
    }
    cluster, key = with_rollout(artifact=artifact)
    cluster.secrets["home", "robot"] = docker_config()
    return cluster, key


def entry_of(cluster: Cluster, key: Key) -> str | None:
    policy = cluster.policy(key)
    stable = policy.stable if policy is not None else None
    return stable.firmware.credentials if stable is not None else None


async def test_credentials_are_handed_over_rotated_and_taken_back() -> None:
    cluster, key = with_secret()
    async with running(cluster) as operator:
        await eventually(lambda: entry_of(cluster, key) is not None)
        first = entry_of(cluster, key)
        assert first is not None
        assert cluster.credentials[first].password == PASSWORD
        assert cluster.accesses[0].password == PASSWORD
        cluster.secrets["home", "robot"] = docker_config(username="robot", password="rotated")
        await eventually(lambda: entry_of(cluster, key) not in (None, first))
        second = entry_of(cluster, key)
        await eventually(lambda: set(cluster.credentials) == {second})
        cluster.credentials.clear()
        await eventually(lambda: set(cluster.credentials) == {second})
        del cluster.objects[key]
        operator.mark(key)
        await eventually(lambda: not cluster.credentials)
    told = f"{cluster.objects} {cluster.notices} {cluster.published}"
    assert PASSWORD not in told


async def test_an_entry_stays_while_its_policy_is_about_to_be_written() -> None:
    cluster, key = with_secret()
    async with running(cluster):
        await eventually(lambda: cluster.policy(key) is not None)
        cluster.held["publish"] = asyncio.Event()
        await eventually(lambda: bool(cluster.credentials))
        before = cluster.calls.count("add")
        sweeps = cluster.calls.count("keys")
        await eventually(lambda: cluster.calls.count("keys") > sweeps + 3)
        assert cluster.credentials
        assert cluster.calls.count("add") == before
        cluster.held["publish"].set()
        await eventually(lambda: entry_of(cluster, key) in cluster.credentials)


async def test_an_entry_that_policies_need_outlives_a_restart() -> None:
    cluster, key = with_secret()
    async with running(cluster):
        await eventually(lambda: entry_of(cluster, key) is not None)
    entries = dict(cluster.credentials)
    del cluster.secrets["home", "robot"]
    async with running(cluster):
        sweeps = cluster.calls.count("keys")
        await eventually(lambda: cluster.calls.count("keys") > sweeps + 3)
        await eventually(lambda: _reason(cluster, key) == "SecretNotFound")
    assert cluster.credentials == entries
    assert entry_of(cluster, key) in entries


async def test_a_secret_that_may_not_be_read_is_said_and_read_once_it_may() -> None:
    cluster, key = with_secret()
    cluster.troubles["secret"] = [Unavailable("answered with 403")] * 1000
    async with running(cluster):
        await eventually(lambda: _reason(cluster, key) == "SecretUnavailable")
        assert "403" in cluster.condition(key, "ArtifactResolved")["message"]
        cluster.troubles["secret"].clear()
        await eventually(lambda: entry_of(cluster, key) is not None)
        await eventually(lambda: _reason(cluster, key) == "Resolved")


async def test_the_entry_is_there_before_a_policy_refers_to_it() -> None:
    cluster, key = with_secret()
    cluster.troubles["add"] = [Unavailable("no API server")] * 3
    async with running(cluster, replace(QUICK, sweep_every=3600.0)):
        await eventually(lambda: entry_of(cluster, key) is not None)
    assert not cluster.troubles["add"]
    calls = cluster.calls
    last_add = len(calls) - 1 - calls[::-1].index("add")
    assert last_add < calls.index("manifest 1.0.0")


def _reason(cluster: Cluster, key: Key) -> str:
    return cluster.condition(key, "ArtifactResolved")["reason"]
