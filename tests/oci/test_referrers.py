"""Case 9: what refers to a manifest, by the API of registries that have it, else by its tag."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    ImageLayout,
    Limits,
    RateLimited,
    RegistryClient,
    RegistryError,
    RegistryUnreachable,
    Repository,
    TooLarge,
    Unauthorized,
)
from otaflux_oci.manifests import OCI_INDEX
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import LOOPBACK, NAME, push

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
Answer = Callable[[Request], Reply]


def entry(body: bytes, **fields: Any) -> dict[str, Any]:
    kind = "application/vnd.oci.image.manifest.v1+json"
    return {"mediaType": kind, "digest": sha256(body), "size": len(body), **fields}


def index_of(*entries: dict[str, Any]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return json.dumps(document).encode()


def page(*entries: dict[str, Any], link: str = "") -> Reply:
    headers = {"Content-Type": OCI_INDEX} | ({"Link": link} if link else {})
    return Reply(headers=headers, body=index_of(*entries))


def by_api(registry: MisbehavingRegistry, answer: Answer) -> None:
    registry.rules.append(
        lambda request: answer(request) if "/referrers/" in request.path else None
    )


def by_tag(registry: MisbehavingRegistry, digest: str, *entries: dict[str, Any]) -> None:
    registry.put(NAME, digest.replace(":", "-"), index_of(*entries), OCI_INDEX)


FIRST, SECOND = (manifest_of(text, artifactType=BUNDLE) for text in (b"first", b"second"))


async def test_case_9_the_api_with_pages(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    here = f"/v2/{NAME}/referrers/{digest}"

    def answer(request: Request) -> Reply:
        if request.query.get("next") == ["2"]:
            return page(entry(SECOND, artifactType=BUNDLE), entry(FIRST, artifactType=BUNDLE))
        return page(entry(FIRST, artifactType=BUNDLE), link=f'<{here}?next=2>; rel="next"')

    by_api(misbehaving, answer)
    found = await client.referrers(kitchen, digest)
    assert {known.digest for known in found} == {sha256(FIRST), sha256(SECOND)}
    assert len(found) == 2
    assert {known.artifact_type for known in found} == {BUNDLE}
    assert not misbehaving.asked("sha256-")


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(404),
        Reply(405),
        Reply(429, {"Retry-After": "0"}),
        Reply(303, {"Location": "/elsewhere"}),
        Reply(307, {"Location": "http://127.0.0.1:9/"}),
    ],
    ids=lambda reply: str(reply.status),
)
async def test_case_9_without_the_api_it_is_the_tag(
    misbehaving: MisbehavingRegistry,
    client: RegistryClient,
    kitchen: Repository,
    refusal: Reply,
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    by_api(misbehaving, lambda _: refusal)
    by_tag(misbehaving, digest, entry(FIRST, artifactType="application/wrong"))
    (found,) = await client.referrers(kitchen, digest)
    # What the index says of it, anybody may have written: whoever wants to know looks into it.
    assert (found.digest, found.artifact_type, found.annotations) == (sha256(FIRST), None, {})
    assert not misbehaving.asked("elsewhere")


async def test_case_9_nothing_refers_to_it(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    assert await client.referrers(kitchen, digest) == []
    by_api(misbehaving, lambda _: page())
    assert await client.referrers(kitchen, digest) == []


async def test_a_limit_of_requests_without_the_tag_is_no_empty_list(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    by_api(misbehaving, lambda _: Reply(429, {"Retry-After": "100"}))
    with pytest.raises(RateLimited) as caught:
        await client.referrers(kitchen, digest)
    assert caught.value.retry_after == 100


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(500), RegistryError),
        (Reply(503), RegistryUnreachable),
        (Reply(401), Unauthorized),
        (Reply(headers={"Content-Type": "text/html"}, body=b"<html>"), RegistryError),
        (Reply(headers={"Content-Type": OCI_INDEX}, body=b"{"), RegistryError),
        (page(link='<http://localhost:1/v2/>; rel="next"'), RegistryError),
    ],
    ids=["500", "503", "401", "html", "no-json", "cross-origin"],
)
async def test_an_answer_that_says_nothing_is_no_empty_list(
    misbehaving: MisbehavingRegistry,
    client: RegistryClient,
    kitchen: Repository,
    reply: Reply,
    error: type[Exception],
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    by_tag(misbehaving, digest, entry(FIRST))
    by_api(misbehaving, lambda _: reply)
    with pytest.raises(error):
        await client.referrers(kitchen, digest)


async def test_a_list_without_end_is_an_error(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    limits = Limits(referrer_pages=3)
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
        digest = await client.digest(kitchen, "1.4.0")
        by_api(misbehaving, lambda request: page(link=f'<{request.path}?again>; rel="next"'))
        with pytest.raises(TooLarge, match="more than 3 pages"):
            await client.referrers(kitchen, digest)
    assert len(misbehaving.asked("/referrers/")) == 3


async def test_a_list_of_very_many_is_an_error(
    misbehaving: MisbehavingRegistry, kitchen: Repository
) -> None:
    limits = Limits(referrers=1)
    async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
        digest = await client.digest(kitchen, "1.4.0")
        by_api(misbehaving, lambda _: page(entry(FIRST), entry(SECOND)))
        with pytest.raises(TooLarge, match="or 1 entries"):
            await client.referrers(kitchen, digest)


async def test_case_9_real_registries(
    registry: Registry, client: RegistryClient, oras: Oras, repository: str, tmp_path: Path
) -> None:
    here = Repository(registry.host, repository)
    await push(oras, tmp_path, f"{here}:1.4.0", "--plain-http")
    digest = await client.digest(here, "1.4.0")
    assert await client.referrers(here, digest) == []
    (tmp_path / "note.txt").write_text("note")
    for kind in ("application/vnd.example.one", "application/vnd.example.two"):
        await oras(
            "attach",
            "--plain-http",
            "--artifact-type",
            kind,
            f"{here}@{digest}",
            "note.txt:text/plain",
            cwd=tmp_path,
        )
    found = [
        await client.manifest(here, one.digest) for one in await client.referrers(here, digest)
    ]
    assert {known.artifact_type for known in found} == {
        "application/vnd.example.one",
        "application/vnd.example.two",
    }
    assert all(known.subject is not None and known.subject.digest == digest for known in found)


async def test_an_image_layout_that_oras_wrote(
    registry_v3: Registry, client: RegistryClient, oras: Oras, repository: str, tmp_path: Path
) -> None:
    here = Repository(registry_v3.host, repository)
    await push(oras, tmp_path, f"{here}:1.4.0", "--plain-http")
    digest = await client.digest(here, "1.4.0")
    (tmp_path / "note.txt").write_text("note")
    await oras(
        "attach",
        "--plain-http",
        "--artifact-type",
        BUNDLE,
        f"{here}@{digest}",
        "note.txt:text/plain",
        cwd=tmp_path,
    )
    await oras(
        "cp",
        "--recursive",
        "--from-plain-http",
        "--to-oci-layout",
        f"{here}:1.4.0",
        "layout:1.4.0",
        cwd=tmp_path,
    )
    layout = ImageLayout(tmp_path / "layout", repository=here)
    assert await layout.digest(here, "1.4.0") == digest
    (found,) = await layout.referrers(here, digest)
    assert found.artifact_type == BUNDLE
    assert await layout.referrers(here, found.digest) == []
    assert (await layout.manifest(here, found.digest)).layers[0].title == "note.txt"


def test_an_image_layout_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "firmware.bin").write_bytes(b"firmware")
    layout = ImageLayout(tmp_path / "layout")
    repository = Repository.parse("registry.example.com/fw")
    manifest = layout.add(repository, tmp_path / "firmware.bin", version="1.4.0")
    path = tmp_path / "layout" / "index.json"
    index = json.loads(path.read_text())
    broken = tmp_path / "layout" / "blobs" / "sha256" / ("0" * 64)
    broken.write_bytes(b"no manifest")
    index["manifests"] += [
        entry(b"absent"),
        {"mediaType": "text/plain", "digest": "sha256:" + "0" * 64, "size": 11},
        {"mediaType": "text/plain"},
    ]
    path.write_text(json.dumps(index))
    assert layout._referrers(repository, manifest.digest) == []
