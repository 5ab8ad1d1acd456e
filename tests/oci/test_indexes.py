"""Compatibility case 11: which manifest of an image index holds the firmware."""

import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    AmbiguousLayers,
    ImageLayout,
    ManifestNotFound,
    NoFirmwareLayer,
    OciError,
    RegistryClient,
    Repository,
    Resolved,
    TooLarge,
    UnsupportedManifest,
    VersionMismatch,
    find_file,
    resolve,
)
from otaflux_oci.manifests import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from tests.fixtures.image_registries import ImageRegistry, entry, packed
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import FIRMWARE, NAME, read

OTHER = FIRMWARE[::-1]
MODELS = "io.otaflux.models"
VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"


class Indexes:
    """Manifests and indexes in the misbehaving registry, which does as it is told here."""

    def __init__(self, registry: MisbehavingRegistry) -> None:
        self.registry = registry

    def child(
        self, firmware: bytes, platform: str = "", *, own: dict[str, str] | None = None, **said: str
    ) -> dict[str, Any]:
        """A manifest and its entry; `own`: annotations of the manifest, `said`: of the entry."""
        self.registry.blobs[sha256(firmware)] = firmware
        return self.put(manifest_of(firmware, annotations=own), OCI_MANIFEST, platform, **said)

    def put(self, body: bytes, media_type: str, platform: str = "", **said: str) -> dict[str, Any]:
        digest = self.registry.put(NAME, sha256(body), body, media_type)
        child = {"mediaType": media_type, "digest": digest, "size": len(body)}
        return entry(child, platform, **said)

    def index(self, *children: dict[str, Any], **changes: Any) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, **changes}
        return self.put(json.dumps(document).encode(), document["mediaType"])


@pytest.fixture
def indexes(misbehaving: MisbehavingRegistry) -> Indexes:
    return Indexes(misbehaving)


async def found(
    client: RegistryClient, repository: Repository, index: dict[str, Any], **asked: Any
) -> Resolved:
    return await resolve(client, repository, digest=index["digest"], **asked)


def readme(indexes: Indexes) -> dict[str, Any]:
    layer = {"mediaType": "text/markdown", "digest": sha256(b"x"), "size": 1}
    layer["annotations"] = {"org.opencontainers.image.title": "README.md"}
    body = manifest_of(b"x", layers=[layer])
    return indexes.put(body, OCI_MANIFEST)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
async def test_the_only_child_with_firmware(
    indexes: Indexes, kitchen: Repository, client: RegistryClient, media_type: str
) -> None:
    firmware = indexes.child(FIRMWARE, "linux/arm/v7")
    index = indexes.index(
        indexes.child(OTHER, "unknown/unknown"),
        indexes.child(b"attestation", vnd_docker_reference_type="attestation-manifest"),
        {"mediaType": "application/vnd.example.unknown", "digest": sha256(b"?"), "size": 1},
        indexes.put(manifest_of(b"", layers=[]), OCI_MANIFEST),
        firmware,
        mediaType=media_type,
    )
    release = await found(client, kitchen, index)
    assert release.digest == index["digest"], "what the tag points to, and a signature is of"
    assert await read(client, kitchen, release.layer) == FIRMWARE


async def test_the_layer_selector_chooses(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    index = indexes.index(readme(indexes), indexes.child(FIRMWARE))
    for selector in ({"title": "firmware.bin"}, {"media_type": "application/octet-stream"}):
        release = await found(client, kitchen, index, **selector)
        assert release.layer.digest == sha256(FIRMWARE)
    with pytest.raises(AmbiguousLayers, match="2 manifests with firmware"):
        await found(client, kitchen, index)
    with pytest.raises(NoFirmwareLayer, match="no manifest with a layer"):
        await found(client, kitchen, index, title="other.bin")


@pytest.mark.parametrize("where", ["entry", "manifest", "both"])
async def test_models_choose_among_several(
    indexes: Indexes, kitchen: Repository, client: RegistryClient, where: str
) -> None:
    def child(firmware: bytes, models: str) -> dict[str, Any]:
        own = {MODELS: models} if where != "entry" else None
        said = {"io_otaflux_models": models} if where != "manifest" else {}
        return indexes.child(firmware, own=own, **said)

    index = indexes.index(
        child(FIRMWARE, "thermostat-v1, thermostat-v2"), child(OTHER, "lamp"), readme(indexes)
    )
    for models, expected in (
        (("thermostat-v2",), FIRMWARE),
        (("thermostat-v2", "thermostat-v1"), FIRMWARE),
        (("lamp",), OTHER),
    ):
        release = await found(client, kitchen, index, models=models)
        assert await read(client, kitchen, release.layer) == expected
        assert MODELS in release.annotations
    for none in ((), ("lamp", "thermostat-v1"), ("thermostat",)):
        with pytest.raises(AmbiguousLayers, match="3 manifests with firmware"):
            await found(client, kitchen, index, models=none)


async def test_ambiguity_tells_what_there_is(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    one = indexes.child(FIRMWARE, "linux/arm/v7", io_otaflux_models="a,b")
    two = indexes.child(OTHER, own={"board": "rev\n2"})
    with pytest.raises(AmbiguousLayers) as caught:
        await found(client, kitchen, indexes.index(one, two))
    message = str(caught.value)
    assert f"{one['digest']} ('linux/arm/v7', 'io.otaflux.models': 'a,b')" in message
    assert f"{two['digest']} ('no platform', 'board': 'rev\\n2')" in message
    assert "\n" not in message
    both = indexes.index(
        indexes.child(FIRMWARE, io_otaflux_models="a,b"),
        indexes.child(OTHER, io_otaflux_models="a"),
    )
    with pytest.raises(AmbiguousLayers, match="of which 2 fit for a"):
        await found(client, kitchen, both, models=("a",))


async def test_a_child_that_is_ambiguous_itself_counts(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    layer = {"mediaType": "application/octet-stream", "digest": sha256(b"x"), "size": 1}
    torn = manifest_of(b"x", layers=[layer, {**layer, "digest": sha256(b"y")}])
    child = indexes.put(torn, OCI_MANIFEST, io_otaflux_models="lamp")
    with pytest.raises(AmbiguousLayers, match="2 layers that could be"):
        await found(client, kitchen, indexes.index(child))
    index = indexes.index(child, indexes.child(FIRMWARE, io_otaflux_models="thermostat"))
    assert await found(client, kitchen, index, models=("thermostat",))
    with pytest.raises(AmbiguousLayers, match="2 layers that could be"):
        await found(client, kitchen, index, models=("lamp",))
    with pytest.raises(AmbiguousLayers, match="2 manifests with firmware"):
        await found(client, kitchen, index)


async def test_one_manifest_for_two_platforms_is_one_firmware(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    index = indexes.index(
        indexes.child(FIRMWARE, "linux/amd64"), indexes.child(FIRMWARE, "linux/arm64")
    )
    assert (await found(client, kitchen, index)).layer.digest == sha256(FIRMWARE)
    index = indexes.index(indexes.child(FIRMWARE, a="1"), indexes.child(FIRMWARE, a="2"))
    with pytest.raises(AmbiguousLayers):
        await found(client, kitchen, index)


async def test_annotations_come_from_all_levels(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    child = indexes.child(FIRMWARE, own={"m": "1", "all": "x", CREATED: "now"}, e="2", all="x")
    index = indexes.index(child, annotations={VERSION: "1.4.0", "all": "x", CREATED: "later"})
    release = await found(client, kitchen, index)
    expected = {VERSION: "1.4.0", "m": "1", "e": "2", "all": "x", CREATED: "now"}
    assert release.annotations == expected, "made when the manifest was"
    assert release.version == "1.4.0"


@pytest.mark.parametrize(
    ("of_index", "of_entry", "of_manifest"),
    [("1", "", "2"), ("1", "2", ""), ("", "1", "2")],
)
async def test_annotations_that_contradict_each_other_are_refused(
    indexes: Indexes,
    kitchen: Repository,
    client: RegistryClient,
    of_index: str,
    of_entry: str,
    of_manifest: str,
) -> None:
    child = indexes.child(
        FIRMWARE,
        own={"k": of_manifest} if of_manifest else None,
        **({"k": of_entry} if of_entry else {}),
    )
    index = indexes.index(child, annotations={"k": of_index} if of_index else {})
    with pytest.raises(UnsupportedManifest, match=r"different things of 'k': '1' and '2'"):
        await found(client, kitchen, index)


async def test_a_tag_and_the_version_of_a_child_have_to_agree(
    indexes: Indexes, kitchen: Repository, client: RegistryClient, misbehaving: MisbehavingRegistry
) -> None:
    index = indexes.index(indexes.child(FIRMWARE, own={VERSION: "1.3.0"}))
    media_type, body = misbehaving.manifests[NAME, index["digest"]]
    misbehaving.put(NAME, "2.0.0", body, media_type)
    with pytest.raises(VersionMismatch):
        await resolve(client, kitchen, tag="2.0.0")


async def test_an_index_within_an_index_and_no_deeper(
    indexes: Indexes, kitchen: Repository, client: RegistryClient
) -> None:
    inner = indexes.index(indexes.child(FIRMWARE))
    outer = indexes.index(inner, readme(indexes))
    release = await found(client, kitchen, outer, title="firmware.bin")
    assert (release.digest, release.layer.digest) == (outer["digest"], sha256(FIRMWARE))
    with pytest.raises(UnsupportedManifest, match="indexes within indexes"):
        await found(client, kitchen, indexes.index(outer))


async def test_few_children_are_looked_at(
    indexes: Indexes, kitchen: Repository, client: RegistryClient, misbehaving: MisbehavingRegistry
) -> None:
    children = [indexes.put(manifest_of(b"", layers=[], n=n), OCI_MANIFEST) for n in range(40)]
    attestations = [entry(child, "unknown/unknown") for child in children]
    index = indexes.index(*attestations, indexes.child(FIRMWARE))
    assert (await found(client, kitchen, index)).layer.digest == sha256(FIRMWARE)
    misbehaving.received.clear()
    for most in (
        indexes.index(*children),
        indexes.index(indexes.index(*children[:20]), indexes.index(*children[20:])),
    ):
        with pytest.raises(TooLarge, match="more than 32 manifests"):
            await found(client, kitchen, most)
    assert len(misbehaving.asked("manifests")) == 1 + 3, "none of the children"


@pytest.mark.parametrize("where", ["own", "said"])
async def test_few_annotations_are_kept(
    indexes: Indexes, kitchen: Repository, client: RegistryClient, where: str
) -> None:
    many = {f"n{number}": "" for number in range(513)}
    child = indexes.child(FIRMWARE, **({"own": many} if where == "own" else many))
    with pytest.raises(TooLarge, match="more than 512 annotations"):
        await found(client, kitchen, indexes.index(child))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"digest": sha256(b"never pushed")}, ManifestNotFound),
        ({"platform": "linux"}, UnsupportedManifest),
        ({"platform": {"os": 5}}, UnsupportedManifest),
    ],
)
async def test_an_entry_that_is_wrong(
    indexes: Indexes,
    kitchen: Repository,
    client: RegistryClient,
    change: dict[str, Any],
    error: type[OciError],
) -> None:
    index = indexes.index({**indexes.child(FIRMWARE), **change})
    with pytest.raises(error):
        await found(client, kitchen, index)


async def test_case_11_an_index_that_oras_makes(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    source = Repository(registry.host, repository)
    for name, content in (("thermostat", FIRMWARE), ("lamp", OTHER)):
        (tmp_path / name).write_bytes(content)
        said = f"{MODELS}={name}"
        file = f"{name}:application/octet-stream"
        target = f"{source}:1.4.0-{name}"
        await oras("push", "--plain-http", "--annotation", said, target, file, cwd=tmp_path)
    await oras(
        "manifest", "index", "create", "--plain-http", f"{source}:1.4.0",
        "1.4.0-thermostat", "1.4.0-lamp", cwd=tmp_path,
    )  # fmt: skip
    release = await resolve(client, source, tag="1.4.0", models=("thermostat",))
    assert await read(client, source, release.layer) == FIRMWARE
    assert release.digest == await client.digest(source, "1.4.0")
    assert release.version == "1.4.0"
    assert set(release.annotations) == {MODELS, CREATED}
    with pytest.raises(AmbiguousLayers, match="2 manifests with firmware"):
        await resolve(client, source, tag="1.4.0")


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "v2s2"])
async def test_case_11_an_index_of_images_as_builders_make_it(
    registry: Registry, repository: str, client: RegistryClient, docker: bool
) -> None:
    source = Repository(registry.host, repository)
    images = ImageRegistry(registry.host, repository)
    image = await images.image(packed({"app.bin": FIRMWARE}), docker=docker)
    attestation = await images.artifact(b"provenance")
    said = {"vnd_docker_reference_type": "attestation-manifest"}
    index = await images.index(
        entry(image, "linux/arm64"),
        entry(attestation, "unknown/unknown", **said),
        tag="1.4.0",
        media_type=DOCKER_LIST if docker else OCI_INDEX,
    )
    release = await resolve(client, source, tag="1.4.0")
    assert release.digest == index["digest"]
    assert (await find_file(client, source, release.layer)).digest == sha256(FIRMWARE)


async def test_an_image_layout_may_leave_types_out(tmp_path: Path) -> None:
    """OCI's `mediaType` is optional; an entry of an index is then read by its form."""
    repository = Repository.parse("localhost/firmware")
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(body: bytes) -> dict[str, Any]:
        (blobs / sha256(body).removeprefix("sha256:")).write_bytes(body)
        return {"digest": sha256(body), "size": len(body)}

    put(FIRMWARE)
    child = {"mediaType": OCI_MANIFEST, **put(manifest_of(FIRMWARE, mediaType=None))}
    inner = {"schemaVersion": 2, "manifests": [child]}
    middle = {"mediaType": OCI_INDEX, **put(json.dumps(inner).encode())}
    outer = {"schemaVersion": 2, "manifests": [middle]}
    tagged = {
        "mediaType": OCI_INDEX,
        **put(json.dumps(outer).encode()),
        "annotations": {"org.opencontainers.image.ref.name": "localhost/firmware:1.4.0"},
    }
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    layout = ImageLayout(tmp_path)
    release = await resolve(layout, repository, tag="1.4.0")
    assert release.digest == tagged["digest"]
    assert await read(layout, repository, release.layer) == FIRMWARE
