"""Compatibility case 11: which layer is the firmware, of oras and of images from scratch."""

import json
from pathlib import Path

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    AmbiguousLayers,
    ArchivedFile,
    Descriptor,
    Manifest,
    NoFirmwareLayer,
    RegistryClient,
    Repository,
    UnsupportedManifest,
    find_file,
    firmware_layer,
    is_archive,
    resolve,
)
from otaflux_oci.manifests import OCI_MANIFEST
from tests.fixtures.image_registries import OCI_CONFIG, OCI_GZIP_LAYER, ImageRegistry, packed
from tests.fixtures.misbehaving_registries import sha256
from tests.fixtures.oci_sources import FIRMWARE, read

ESP32 = "application/vnd.espressif.esp32.firmware.v1+binary"
OCTETS = "application/octet-stream"
ORAS_DEFAULT = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"


def layer(media_type: str, title: str = "", **annotations: str) -> Descriptor:
    titled = {TITLE: title} if title else {}
    return Descriptor(media_type, sha256(title.encode()), 7, {**titled, **annotations})


def manifest(*layers: Descriptor, media_type: str = OCI_MANIFEST) -> Manifest:
    return Manifest(digest=sha256(b""), media_type=media_type, layers=layers)


README = layer("text/markdown", "README.md")
APP = layer(ESP32, "app.bin")
BOOTLOADER = layer(ESP32, "bootloader.bin")
EMPTY = layer("application/vnd.oci.empty.v1+json")


@pytest.mark.parametrize(
    ("layers", "selector", "expected"),
    [
        ((APP,), {}, APP),
        ((README,), {}, README),  # the only one: its type does not matter
        ((EMPTY, APP), {}, APP),
        ((README, APP), {}, APP),  # by media type
        ((layer(OCTETS, "a"), layer("x/firmware", "b")), {}, layer("x/firmware", "b")),
        ((BOOTLOADER, APP, README), {"title": "app.bin"}, APP),
        ((README, APP), {"title": "README.md"}, README),  # the selector is obeyed
        ((README, APP), {"media_type": ESP32}, APP),
        ((BOOTLOADER, APP), {"media_type": ESP32, "title": "app.bin"}, APP),
        ((layer(OCTETS, "app.bin"), APP), {"title": "app.bin"}, APP),
        ((layer(ORAS_DEFAULT, "app.bin"),), {}, layer(ORAS_DEFAULT, "app.bin")),
    ],
)
def test_case_11_one_layer(
    layers: tuple[Descriptor, ...], selector: dict[str, str], expected: Descriptor
) -> None:
    assert firmware_layer(manifest(*layers), **selector) == expected
    assert firmware_layer(manifest(*reversed(layers)), **selector) == expected


@pytest.mark.parametrize(
    ("layers", "selector"),
    [
        ((layer(OCTETS, "a.bin"), layer(OCTETS, "b.bin")), {}),
        ((APP, BOOTLOADER), {}),
        ((APP, BOOTLOADER), {"media_type": ESP32}),
        ((APP, APP), {}),
        ((APP, APP), {"title": "app.bin"}),
        ((APP, layer(OCTETS, "x.bin")), {"media_type": "", "title": ""}),
    ],
)
def test_case_11_ambiguity_is_an_error(
    layers: tuple[Descriptor, ...], selector: dict[str, str]
) -> None:
    if len({item.media_type for item in layers}) == 2:
        # One of them speaks of firmware: that is the rule by media type, not ambiguity.
        assert firmware_layer(manifest(*layers), **selector) == APP
        return
    with pytest.raises(AmbiguousLayers, match=r"could be the firmware.*layerSelector"):
        firmware_layer(manifest(*layers), **selector)


@pytest.mark.parametrize(
    ("layers", "selector", "message"),
    [
        ((), {}, "no layer. Push"),
        ((EMPTY,), {}, "no layer. Push"),
        ((), {"title": "app.bin"}, "no layer. Push"),
        ((APP,), {"title": "App.bin"}, "title 'App.bin': .*app.bin"),
        ((APP,), {"media_type": OCTETS}, "type 'application/octet-stream'"),
        ((APP, README), {"media_type": ESP32, "title": "README.md"}, "type .* and title"),
    ],
)
def test_case_11_no_layer(
    layers: tuple[Descriptor, ...], selector: dict[str, str], message: str
) -> None:
    with pytest.raises(NoFirmwareLayer, match=message):
        firmware_layer(manifest(*layers), **selector)


GZIP = layer("application/vnd.oci.image.layer.v1.tar+gzip")
DOCKER = layer("application/vnd.docker.image.rootfs.diff.tar.gzip")
TAR = layer("application/vnd.oci.image.layer.v1.tar")


@pytest.mark.parametrize(
    ("layers", "selector", "expected"),
    [
        ((GZIP,), {}, GZIP),
        ((DOCKER,), {}, DOCKER),
        ((TAR,), {}, TAR),
        ((GZIP,), {"title": "fw/app.bin"}, GZIP),  # a path in it
        ((GZIP,), {"media_type": GZIP.media_type, "title": "app.bin"}, GZIP),
        ((GZIP, APP), {"title": "app.bin"}, APP),  # a layer's own title before a path
        ((GZIP, APP), {"title": "other.bin"}, GZIP),
        ((GZIP, README), {"media_type": GZIP.media_type}, GZIP),
    ],
)
def test_case_11_the_one_archive_of_an_image(
    layers: tuple[Descriptor, ...], selector: dict[str, str], expected: Descriptor
) -> None:
    found = firmware_layer(manifest(*layers), **selector)
    assert found == expected
    assert is_archive(found) == (expected is not APP)


@pytest.mark.parametrize(
    ("layers", "selector"),
    [
        ((GZIP, DOCKER), {}),
        ((GZIP, GZIP), {"title": "app.bin"}),
        ((GZIP, TAR), {"media_type": GZIP.media_type}),
        ((GZIP, layer("application/vnd.oci.image.layer.v1.tar+zstd")), {"title": "app.bin"}),
    ],
)
def test_case_11_several_archives_are_ambiguous(
    layers: tuple[Descriptor, ...], selector: dict[str, str]
) -> None:
    with pytest.raises(AmbiguousLayers, match=r"image of 2 layers.*FROM scratch"):
        firmware_layer(manifest(*layers), **selector)


def test_case_11_an_archive_beside_a_file_is_ambiguous() -> None:
    with pytest.raises(AmbiguousLayers, match="layerSelector"):
        firmware_layer(manifest(GZIP, README))


@pytest.mark.parametrize(
    "archive",
    [
        layer("application/vnd.oci.image.layer.v1.tar+zstd"),
        layer("application/vnd.oci.image.layer.nondistributable.v1.tar"),
        layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    ],
)
def test_case_11_other_archives_are_refused(archive: Descriptor) -> None:
    with pytest.raises(UnsupportedManifest, match=r"which is not read.*compression=gzip"):
        firmware_layer(manifest(archive))


def test_case_11_a_pushed_folder_is_refused() -> None:
    folder = layer(OCTETS, "folder", **{"io.deis.oras.content.unpack": "true"})
    with pytest.raises(UnsupportedManifest, match="archive of a folder"):
        firmware_layer(manifest(folder))


async def test_case_11_layouts_that_oras_pushes(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    (tmp_path / "app.bin").write_bytes(FIRMWARE)
    (tmp_path / "README.md").write_bytes(b"read me")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "app.bin").write_bytes(FIRMWARE)
    source = Repository(registry.host, repository)

    async def push(tag: str, *files: str) -> None:
        await oras("push", "--plain-http", f"{source}:{tag}", *files, cwd=tmp_path)

    await push("single", f"app.bin:{ESP32}")
    await push("untyped", "app.bin")
    await push("multi", "README.md:text/markdown", f"app.bin:{ESP32}")
    await push("ambiguous", "README.md", "app.bin")
    await push("folder", "folder")
    for tag in ("single", "untyped", "multi"):
        release = await resolve(client, source, tag=tag)
        assert await read(client, source, release.layer) == FIRMWARE
    with pytest.raises(AmbiguousLayers, match=r"README\.md.*app\.bin"):
        await resolve(client, source, tag="ambiguous")
    chosen = await resolve(client, source, tag="ambiguous", title="app.bin")
    assert await read(client, source, chosen.layer) == FIRMWARE
    with pytest.raises(UnsupportedManifest, match="archive of a folder"):
        await resolve(client, source, tag="folder")


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "v2s2"])
async def test_case_11_an_image_from_scratch(
    registry: Registry, repository: str, client: RegistryClient, docker: bool
) -> None:
    source = Repository(registry.host, repository)
    images = ImageRegistry(registry.host, repository)
    one = await images.image(packed({"app.bin": FIRMWARE}), tag="one", docker=docker)
    await images.image(packed({"app.bin": FIRMWARE, "README": b"x"}), tag="two", docker=docker)
    await images.image(packed({"a": b""}), packed({"b": b""}), tag="layers", docker=docker)

    release = await resolve(client, source, tag="one")
    assert release.digest == one["digest"]
    assert is_archive(release.layer)
    expected = ArchivedFile("app.bin", sha256(FIRMWARE), len(FIRMWARE))
    assert await find_file(client, source, release.layer) == expected

    release = await resolve(client, source, tag="two", title="app.bin")
    assert await find_file(client, source, release.layer, path="app.bin") == expected
    with pytest.raises(AmbiguousLayers, match=r"'app\.bin', 'README'"):
        await find_file(client, source, release.layer)
    with pytest.raises(AmbiguousLayers, match="image of 2 layers"):
        await resolve(client, source, tag="layers")


async def test_case_11_an_image_that_oras_pushes(
    registry: Registry, oras: Oras, repository: str, tmp_path: Path, client: RegistryClient
) -> None:
    """Blob by blob: `oras push` titles what it pushes, and then the archive is the firmware."""
    source = Repository(registry.host, repository)
    archive = packed({"app.bin": FIRMWARE})
    (tmp_path / "layer.tar.gz").write_bytes(archive)
    (tmp_path / "config.json").write_bytes(b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": sha256(b"{}"), "size": 2},
        "layers": [{"mediaType": OCI_GZIP_LAYER, "digest": sha256(archive), "size": len(archive)}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    for file, body in (("layer.tar.gz", archive), ("config.json", b"{}")):
        where = f"{source}@{sha256(body)}"
        await oras("blob", "push", "--plain-http", where, file, cwd=tmp_path)
    await oras("manifest", "push", "--plain-http", f"{source}:1.0.0", "manifest.json", cwd=tmp_path)
    typed = f"layer.tar.gz:{OCI_GZIP_LAYER}"
    await oras("push", "--plain-http", f"{source}:file", typed, cwd=tmp_path)

    release = await resolve(client, source, tag="1.0.0")
    found = await find_file(client, source, release.layer)
    assert found == ArchivedFile("app.bin", sha256(FIRMWARE), len(FIRMWARE))
    as_file = await resolve(client, source, tag="file")
    assert not is_archive(as_file.layer)
    assert await read(client, source, as_file.layer) == archive
