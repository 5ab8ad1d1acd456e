"""Compatibility cases 1 and 2: anonymous pulls; what a manifest may be."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    Descriptor,
    DigestMismatch,
    Forbidden,
    Limits,
    ManifestNotFound,
    NotFound,
    RegistryClient,
    RegistryError,
    RegistryUnreachable,
    Repository,
    TooLarge,
    UnsupportedManifest,
    resolve,
)
from otaflux_oci.manifests import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.fixtures.loopback_servers import Reply, Request, always
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import FIRMWARE, LOOPBACK, NAME, QUICK, push, read

NAME_UNKNOWN = b'{"errors": [{"code": "NAME_UNKNOWN"}]}'
ALL_FOUR = {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST}


async def test_case_1_anonymous_pull_by_tag_and_by_digest(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    await push(oras, tmp_path, f"{registry.host}/{repository}:1.4.0", "--plain-http")
    source = Repository(registry.host, repository)
    by_tag = await resolve(client, source, tag="1.4.0")
    by_digest = await resolve(client, source, digest=by_tag.digest)
    assert by_tag.digest == by_digest.digest == await client.digest(source, "1.4.0")
    assert (by_tag.version, by_tag.reference) == ("1.4.0", "1.4.0")
    assert by_digest.version == by_digest.digest[7:19]
    assert by_tag.layer.title == "firmware.bin"
    assert await read(client, source, by_tag.layer) == FIRMWARE
    assert await read(client, source, by_tag.layer, offset=299_000) == FIRMWARE[299_000:]
    assert await read(client, source, by_tag.layer, offset=len(FIRMWARE)) == b""


async def test_case_1_what_is_not_there(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    await push(oras, tmp_path, f"{registry.host}/{repository}:1.4.0", "--plain-http")
    source = Repository(registry.host, repository)
    with pytest.raises(ManifestNotFound, match=f"{repository}:9.9.9 does not exist"):
        await client.manifest(source, "9.9.9")
    with pytest.raises(ManifestNotFound):
        await client.manifest(source, sha256(b"nothing"))
    with pytest.raises(ManifestNotFound):
        await client.digest(source, "9.9.9")
    with pytest.raises(NotFound):
        await read(client, source, Descriptor("x/y", sha256(b"nothing"), 7))
    with pytest.raises(NotFound):
        await client.tags(Repository(registry.host, repository + "/none"))


async def test_case_1_manifest_of_another_digest_is_rejected(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    good = await client.manifest(kitchen, "1.4.0")
    evil = manifest_of(b"evil")
    misbehaving.manifests[NAME, good.digest] = (OCI_MANIFEST, evil)
    with pytest.raises(DigestMismatch, match="announces"):
        await client.manifest(kitchen, good.digest)

    def without_header(request: Request) -> Reply | None:
        if "/manifests/sha256:" in request.path:
            return Reply(headers={"Content-Type": OCI_MANIFEST}, body=evil)
        return None

    misbehaving.rules.append(without_header)
    with pytest.raises(DigestMismatch, match="its bytes are"):
        await client.manifest(kitchen, good.digest)


async def test_case_1_announced_digest_has_to_be_that_of_the_body(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": sha256(b"other")}
    misbehaving.rules.append(always(Reply(headers=headers, body=manifest_of(FIRMWARE))))
    with pytest.raises(DigestMismatch, match="should be"):
        await client.manifest(kitchen, "1.4.0")


async def test_case_1_blob_of_another_digest_is_rejected(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    layer = (await resolve(client, kitchen, tag="1.4.0")).layer
    misbehaving.blobs[layer.digest] = FIRMWARE[:-1] + bytes([FIRMWARE[-1] ^ 1])
    with pytest.raises(DigestMismatch, match="its bytes are"):
        await read(client, kitchen, layer)
    assert len(misbehaving.asked("/blobs/")) == 1  # bytes that are wrong are not asked for again


async def test_case_2_all_four_types_are_always_accepted(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    await client.manifest(kitchen, "1.4.0")
    await client.digest(kitchen, "1.4.0")
    methods = [request.method for request in misbehaving.received]
    assert methods == ["GET", "HEAD"]
    for request in misbehaving.received:
        assert set(request.headers["accept"].split(", ")) == ALL_FOUR


@pytest.mark.parametrize(
    "content_type",
    [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/json",
        "text/html; charset=utf-8",
        "",
    ],
)
async def test_case_2_schema_1_and_unknown_types_are_refused(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    content_type: str,
) -> None:
    misbehaving.put(NAME, "old", manifest_of(FIRMWARE), content_type)
    with pytest.raises(UnsupportedManifest, match="not read here"):
        await client.manifest(kitchen, "old")
    with pytest.raises(UnsupportedManifest, match="not read here"):
        await client.digest(kitchen, "old")


@pytest.mark.parametrize("content_type", [OCI_MANIFEST, DOCKER_MANIFEST])
async def test_case_2_parameters_of_a_type_do_not_matter(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, content_type: str
) -> None:
    body = manifest_of(FIRMWARE, mediaType=content_type)
    misbehaving.put(NAME, "x", body, f"{content_type}; charset=utf-8")
    manifest = await client.manifest(kitchen, "x")
    assert (manifest.media_type, manifest.digest) == (content_type, sha256(body))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemaVersion": 1}, "schema version"),
        ({"schemaVersion": None}, "schema version"),
        ({"mediaType": DOCKER_MANIFEST}, "calls itself"),
        ({"manifests": []}, "manifest and an index"),
        ({"layers": {}}, "not a list"),
        ({"layers": [[]]}, "not an object"),
        ({"layers": [{"digest": sha256(b""), "size": 1}]}, "without media type"),
        ({"layers": [{"mediaType": "x/y", "digest": "sha512:00", "size": 1}]}, "SHA-256"),
        ({"layers": [{"mediaType": "x/y", "digest": sha256(b""), "size": -1}]}, "size"),
        ({"layers": [{"mediaType": "x/y", "digest": sha256(b""), "size": True}]}, "size"),
        ({"layers": [{"mediaType": "x/y", "digest": sha256(b""), "size": 2**53}]}, "size"),
        ({"layers": [{"mediaType": "x" * 256, "digest": sha256(b""), "size": 1}]}, "media type"),
        ({"config": []}, "not an object"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"artifactType": 1}, "artifactType"),
    ],
)
async def test_case_2_broken_manifests_are_refused(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    changes: dict[str, Any],
    message: str,
) -> None:
    misbehaving.push(NAME, "broken", FIRMWARE, **changes)
    with pytest.raises(UnsupportedManifest, match=message):
        await client.manifest(kitchen, "broken")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"schemaVersion": 2, "schemaVersion": 2}']
)
async def test_case_2_bodies_that_are_no_manifest(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, body: bytes
) -> None:
    misbehaving.put(NAME, "broken", body)
    with pytest.raises(UnsupportedManifest):
        await client.manifest(kitchen, "broken")


async def test_the_artifact_type_falls_back_to_that_of_the_config(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    config = {"mediaType": "application/vnd.acme.v1+json", "digest": sha256(b"{}"), "size": 2}
    misbehaving.push(NAME, "oras-py", FIRMWARE, artifactType=None, config=config)
    assert (await client.manifest(kitchen, "oras-py")).artifact_type == config["mediaType"]
    misbehaving.push(NAME, "oras", FIRMWARE, config=config)
    named = (await client.manifest(kitchen, "oras")).artifact_type
    assert named == "application/vnd.example.firmware.v1"


async def test_sizes_are_bounded(misbehaving: MisbehavingRegistry, kitchen: Repository) -> None:
    limits = Limits(manifest_bytes=100, blob_bytes=1000)
    descriptor = Descriptor("x/y", sha256(FIRMWARE), len(FIRMWARE))
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
        with pytest.raises(TooLarge, match="larger than 100 bytes"):
            await client.manifest(kitchen, "1.4.0")
        with pytest.raises(TooLarge, match="the limit is 1000"):
            await read(client, kitchen, descriptor)
    assert not misbehaving.asked("/blobs/")


async def test_head_without_a_digest_becomes_a_get(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    def terse(request: Request) -> Reply | None:
        if request.method == "HEAD":
            return Reply(headers={"Content-Type": OCI_MANIFEST})
        return None

    misbehaving.rules.append(terse)
    expected = sha256(manifest_of(FIRMWARE))
    assert await client.digest(kitchen, "1.4.0") == expected
    misbehaving.rules.append(lambda request: Reply(405) if request.method == "HEAD" else None)
    assert await client.digest(kitchen, "1.4.0") == expected


@pytest.mark.parametrize(
    ("reply", "kind", "retryable", "message"),
    [
        (Reply(403), Forbidden, False, "secretRef"),
        (Reply(404, body=NAME_UNKNOWN), NotFound, False, "NAME_UNKNOWN"),
        (Reply(404, body=b"<html>"), ManifestNotFound, False, "404"),
        (Reply(404, body=b'{"errors": [{"code": 5}, 3]}'), ManifestNotFound, False, "404"),
        (Reply(400), RegistryError, False, "answers 400"),
        (Reply(500), RegistryError, True, "answers 500"),
        (Reply(503), RegistryUnreachable, True, "not available"),
        (Reply(body=b"x", announced=9, cut=1), RegistryUnreachable, True, "broke off"),
        (Reply(418, body=b"x", announced=9, cut=1), RegistryError, False, "answers 418"),
    ],
)  # fmt: skip
async def test_each_failure_has_its_class(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    reply: Reply,
    kind: type[RegistryError],
    retryable: bool,
    message: str,
) -> None:
    headers = {"Content-Type": OCI_MANIFEST}
    misbehaving.rules.append(
        always(Reply(reply.status, headers, reply.body, reply.announced, reply.cut))
    )
    with pytest.raises(kind, match=message) as caught:
        await client.manifest(kitchen, "1.4.0")
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable


async def test_silence_ends(misbehaving: MisbehavingRegistry, kitchen: Repository) -> None:
    headers = {"Content-Type": OCI_MANIFEST}
    misbehaving.rules.append(always(Reply(headers=headers, announced=9)))
    for limits in (Limits(read_seconds=0.05), Limits(request_seconds=0.05)):
        async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
            with pytest.raises(RegistryUnreachable):
                await client.manifest(kitchen, "1.4.0")


async def test_requests_to_one_host_are_bounded(misbehaving: MisbehavingRegistry) -> None:
    full, gate = asyncio.Event(), asyncio.Event()

    async def hold(request: Request) -> None:
        if misbehaving.busy == 3:
            full.set()
        await gate.wait()

    misbehaving.before_reply = hold  # type: ignore[method-assign]  # the seam it is there for
    limits = Limits(requests_per_host=3)
    repository = Repository(misbehaving.host, NAME)
    async with (
        RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        pulls = [group.create_task(client.manifest(repository, "1.4.0")) for _ in range(20)]
        async with asyncio.timeout(30):
            await full.wait()
        gate.set()
    assert all(pull.result().layers for pull in pulls)
    assert misbehaving.most_connections == 3
    assert len(misbehaving.received) == 20


async def test_no_cookies_no_coding_no_proxy(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    usual = MisbehavingRegistry.reply

    def with_cookie(request: Request) -> Reply:
        reply = usual(misbehaving, request)
        return Reply(reply.status, {**reply.headers, "Set-Cookie": "sid=1"}, reply.body)

    misbehaving.reply = with_cookie  # type: ignore[method-assign]  # a header on every answer
    for _ in range(2):
        await client.manifest(kitchen, "1.4.0")
    for request in misbehaving.received:
        assert "cookie" not in request.headers
        assert request.headers["accept-encoding"] == "identity"


async def test_limits_for_tests_are_the_real_ones_but_for_the_waiting() -> None:
    assert QUICK.retries == Limits().retries
    assert QUICK.blob_attempts == Limits().blob_attempts


def test_manifest_documents_of_the_tests_are_what_oras_writes() -> None:
    document = json.loads(manifest_of(FIRMWARE))
    assert {"schemaVersion", "mediaType", "artifactType", "config", "layers"} <= set(document)
