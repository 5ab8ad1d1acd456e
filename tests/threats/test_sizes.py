"""Size bombs: registries that give, or promise, more than anybody should have to take.

Archives that are bombs are in `test_archives.py`.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otaflux_oci import (
    Descriptor,
    DigestMismatch,
    OciError,
    RegistryClient,
    Repository,
    TooLarge,
    registries,
)
from otaflux_oci.blobs import Verification
from otaflux_oci.exchanges import Exchanges
from otaflux_policy.canonical import dumps
from otaflux_policy.contract import Release
from otaflux_policy.served import ArtifactState, ServedArtifact
from otaflux_server.serving import UpdateServer
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import OCI_MANIFEST, MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK
from tests.server import fleets
from tests.server.fleets import NAMESPACE, MemorySource, firmware, settings, until

BOTH = pytest.mark.parametrize("mitigated", [True, False])
MIB = 1 << 20
LARGE = b"\xe9" * (8 * MIB)
LIMITS = replace(QUICK, blob_bytes=MIB, manifest_bytes=MIB, tag_page_bytes=MIB)


@pytest.fixture
async def registry() -> AsyncIterator[MisbehavingRegistry]:
    async with MisbehavingRegistry() as registry:
        registry.push(NAME, "1.4.0", FIRMWARE)
        yield registry


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=LIMITS) as client:
        yield client


async def taken(client: RegistryClient, registry: MisbehavingRegistry, layer: Descriptor) -> int:
    """How many bytes of the layer are handed on."""
    async with client.blob(Repository(registry.host, NAME), layer) as parts:
        return sum([len(part) async for part in parts])


@BOTH
async def test_a_descriptor_over_the_limit(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    if not mitigated:
        monkeypatch.setattr(registries, "require_size", lambda *_, **__: None)
    registry.push(NAME, "large", LARGE)
    manifest = await client.manifest(Repository(registry.host, NAME), "large")
    if mitigated:
        with pytest.raises(TooLarge, match="the limit is 1048576"):
            await taken(client, registry, manifest.layers[0])
        assert not registry.asked("/blobs/")
    else:
        assert await taken(client, registry, manifest.layers[0]) == len(LARGE)


@BOTH
async def test_more_bytes_than_the_descriptor_says(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """The mitigation is that they are counted; without it all of them are handed on."""
    handed_on = 0

    def only_hash(check: Verification, part: bytes) -> None:
        check.received += len(part)

    if not mitigated:
        monkeypatch.setattr(Verification, "update", only_hash)
    (digest,) = registry.blobs
    registry.rules.append(
        lambda request: Reply(body=LARGE, announced=None) if "/blobs/" in request.path else None
    )
    layer = Descriptor("application/octet-stream", digest, len(FIRMWARE))

    async def take() -> None:
        nonlocal handed_on
        async with client.blob(Repository(registry.host, NAME), layer) as parts:
            async for part in parts:
                handed_on += len(part)

    with pytest.raises(OciError) as caught:
        await take()
    if mitigated:
        assert isinstance(caught.value, DigestMismatch)
        assert handed_on <= len(FIRMWARE)
    else:
        assert handed_on >= len(LARGE)


@BOTH
@pytest.mark.parametrize("what", ["manifest", "tags", "token"])
async def test_an_answer_without_end(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
    what: str,
) -> None:
    """What has to be read whole is held in memory."""
    read, held = Exchanges.read, 0

    async def counted(self: Exchanges, response: Any, limit: int, *, what: str) -> bytes:
        nonlocal held
        body = await read(self, response, limit if mitigated else 1 << 60, what=what)
        held = max(held, len(body))
        return body

    monkeypatch.setattr(Exchanges, "read", counted)
    body = b'{"padding": "' + b"x" * len(LARGE) + b'"}'

    def answer(request: Request) -> Reply | None:
        if what == "token" and request.path == "/token":
            return Reply(body=body)
        if what == "token":
            realm = f'Bearer realm="{registry.url}/token",service="s"'
            return Reply(401, {"WWW-Authenticate": realm})
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": sha256(body)}
        return Reply(headers=headers, body=body)

    registry.rules.append(answer)
    repository = Repository(registry.host, NAME)
    with pytest.raises(OciError) as caught:  # it is no answer in any case
        await (client.tags(repository) if what == "tags" else client.manifest(repository, "1.4.0"))
    assert isinstance(caught.value, TooLarge) is mitigated, caught.value
    assert (held < MIB) is mitigated


async def ended(server: UpdateServer, target: Release) -> ServedArtifact:
    """How the server is with the artifact once it has tried."""
    item = fleets.policy(target=target)
    server.policies.apply_policy(NAMESPACE, item.name, dumps(item))

    def known() -> ServedArtifact:
        (artifact,) = server.served(NAMESPACE, item.name).artifacts
        return artifact

    await until(lambda: known().state is not ArtifactState.FETCHING)
    return known()


@BOTH
async def test_an_artifact_over_the_limit_of_the_server(tmp_path: Path, mitigated: bool) -> None:
    """Whoever may write rollouts fills its disk."""
    source, content = MemorySource(), firmware("1.4.0", 4 * MIB)
    source.add(content)
    limit = MIB if mitigated else 1 << 60
    options = settings(tmp_path, artifacts={"max_artifact_bytes": limit, "retry_seconds": 0.01})
    async with UpdateServer(options, artifact_source=source) as server:
        artifact = await ended(server, fleets.release("1.4.0", content))
        if mitigated:
            assert (artifact.state, artifact.reason) == (ArtifactState.FAILED, "ArtifactTooLarge")
            assert source.pulls == []
        else:
            assert artifact.state is ArtifactState.STORED
