"""Tag swap: what was resolved once is what devices get, whatever the registry says later."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from otaflux_oci import (
    BlobStream,
    Descriptor,
    DigestMismatch,
    Manifest,
    RegistryClient,
    Repository,
    resolve,
)
from otaflux_oci.blobs import Verification
from otaflux_policy.canonical import dumps
from otaflux_policy.served import ArtifactState
from otaflux_server import artifacts
from otaflux_server.serving import UpdateServer
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import (
    OCI_MANIFEST,
    MisbehavingRegistry,
    manifest_of,
    sha256,
)
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, read
from tests.server import fleets
from tests.server.fleets import NAMESPACE, settings, until

EVIL = b"\xe9" + b"evil" * ((len(FIRMWARE) - 1) // 4)
TAG = "1.4.0"
BOTH = pytest.mark.parametrize("mitigated", [True, False])


@pytest.fixture
async def registry() -> AsyncIterator[MisbehavingRegistry]:
    async with MisbehavingRegistry() as registry:
        registry.push(NAME, TAG, FIRMWARE)
        yield registry


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=QUICK) as client:
        yield client


_blob, _manifest = RegistryClient.blob, RegistryClient.manifest


def blob_by_tag(client: RegistryClient, repository: Repository, _: Descriptor) -> BlobStream:
    """As the Rust OtaFlux: the manifest was checked, and then the layer of the tag is pulled."""

    async def parts() -> AsyncGenerator[bytes, None]:
        layer = (await _manifest(client, repository, TAG)).layers[0]
        async with _blob(client, repository, layer) as stream:
            async for part in stream:
                yield part

    return BlobStream(parts())


@BOTH
async def test_the_tag_moves_between_lookup_and_download(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """The mitigation is that the digest is carried on, and the tag is not asked again."""
    if not mitigated:
        monkeypatch.setattr(RegistryClient, "blob", blob_by_tag)
    repository = Repository(registry.host, NAME)
    release = await resolve(client, repository, tag=TAG)
    registry.push(NAME, TAG, EVIL)
    async with client.blob(repository, release.layer) as stream:
        assert b"".join([part async for part in stream]) == (FIRMWARE if mitigated else EVIL)


async def manifest_by_two(client: RegistryClient, repository: Repository, tag: str) -> Manifest:
    """Digest and content of a tag, asked for one after the other."""
    digest = await client.digest(repository, tag)
    return replace(await _manifest(client, repository, tag), digest=digest)


@BOTH
async def test_the_tag_moves_while_it_is_looked_up(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """Digest (which signatures are checked for) and layer come of one answer."""
    if not mitigated:
        monkeypatch.setattr(RegistryClient, "manifest", manifest_by_two)
    first = registry.manifests[NAME, TAG]

    def swap(request: Request) -> Reply | None:
        if not request.path.endswith(TAG) or registry.manifests[NAME, TAG] != first:
            return None
        registry.push(NAME, TAG, EVIL)
        headers = {"Content-Type": first[0], "Docker-Content-Digest": sha256(first[1])}
        return Reply(headers=headers, body=first[1])

    registry.rules.append(swap)
    repository = Repository(registry.host, NAME)
    release = await resolve(client, repository, tag=TAG)
    assert release.digest == sha256(first[1])
    assert await read(client, repository, release.layer) == (FIRMWARE if mitigated else EVIL)


@BOTH
async def test_a_server_offers_what_its_policy_pins(
    registry: MisbehavingRegistry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mitigated: bool,
) -> None:
    """The client checks what comes, and so does the store once more."""
    (digest,) = registry.blobs
    if not mitigated:
        finish = artifacts._Hashes.finish

        def believe(hashes: Any, rest: bytearray) -> None:
            finish(hashes, rest)
            hashes.sha256 = Mock(hexdigest=lambda: digest.removeprefix("sha256:"))

        monkeypatch.setattr(Verification, "finish", lambda _: None)
        monkeypatch.setattr(artifacts._Hashes, "finish", believe)
    registry.blobs[digest] = EVIL
    pinned = fleets.release(TAG, FIRMWARE, repository=f"{registry.host}/{NAME}", insecure=True)
    item = fleets.policy(target=pinned)
    async with UpdateServer(settings(tmp_path)) as server:
        server.policies.apply_policy(NAMESPACE, item.name, dumps(item))

        def ended() -> bool:
            (artifact,) = server.served(NAMESPACE, item.name).artifacts
            return artifact.state is not ArtifactState.FETCHING

        await until(ended)
        stored = server.artifacts.get(digest)
        if mitigated:
            assert stored is None
            (artifact,) = server.served(NAMESPACE, item.name).artifacts
            assert artifact.reason == "DigestMismatch"
        else:
            assert stored is not None
            assert stored.path.read_bytes() == EVIL


@BOTH
async def test_other_bytes_under_the_digest_of_the_blob(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    if not mitigated:
        monkeypatch.setattr(Verification, "finish", lambda _: None)
    repository = Repository(registry.host, NAME)
    release = await resolve(client, repository, tag=TAG)
    (digest,) = registry.blobs
    registry.blobs[digest] = EVIL
    assert len(EVIL) == release.layer.size
    if mitigated:
        with pytest.raises(DigestMismatch):
            await read(client, repository, release.layer)
    else:
        assert await read(client, repository, release.layer) == EVIL


@BOTH
async def test_another_manifest_under_the_digest_that_is_asked_for(
    registry: MisbehavingRegistry,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
    mitigated: bool,
) -> None:
    """It announces the digest that was asked for."""
    if not mitigated:
        monkeypatch.setattr(RegistryClient, "_expected_digest", lambda *_: None)
    pinned = sha256(registry.manifests[NAME, TAG][1])
    registry.push(NAME, "evil", EVIL)

    def other(request: Request) -> Reply | None:
        if request.path.endswith(pinned):
            headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": pinned}
            return Reply(headers=headers, body=manifest_of(EVIL))
        return None

    registry.rules.append(other)
    repository = Repository(registry.host, NAME)
    if mitigated:
        with pytest.raises(DigestMismatch):
            await resolve(client, repository, digest=pinned, version=TAG)
    else:
        release = await resolve(client, repository, digest=pinned, version=TAG)
        assert await read(client, repository, release.layer) == EVIL
