"""Compatibility case 11: which layer is the firmware. Layouts of oras; the others are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    AmbiguousLayers,
    Descriptor,
    Manifest,
    NoFirmwareLayer,
    RegistryClient,
    Repository,
    UnsupportedManifest,
    firmware_layer,
    resolve,
)
from otaflux_oci.manifests import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import FIRMWARE, NAME, read

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


@pytest.mark.parametrize(
    "archive",
    [
        layer("application/vnd.oci.image.layer.v1.tar+gzip"),
        layer("application/vnd.oci.image.layer.v1.tar+zstd"),
        layer("application/vnd.oci.image.layer.nondistributable.v1.tar"),
        layer("application/vnd.docker.image.rootfs.diff.tar.gzip"),
        layer(OCTETS, "folder", **{"io.deis.oras.content.unpack": "true"}),
    ],
)
def test_case_11_archives_are_not_served_as_firmware(archive: Descriptor) -> None:
    with pytest.raises(UnsupportedManifest, match="holds an archive"):
        firmware_layer(manifest(archive))


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
async def test_case_11_an_index_is_refused_with_a_reason(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, media_type: str
) -> None:
    child = {"mediaType": OCI_MANIFEST, "digest": sha256(b"x"), "size": 1}
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": [child, child]}
    misbehaving.put(NAME, "index", json.dumps(body).encode(), media_type)
    read_index = await client.manifest(kitchen, "index")
    assert read_index.is_index
    assert len(read_index.manifests) == 2
    with pytest.raises(UnsupportedManifest, match="image index with 2 entries"):
        await resolve(client, kitchen, tag="index")


async def test_case_11_a_docker_image_is_refused_with_a_reason(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    config: dict[str, Any] = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": sha256(b"{}"),
        "size": 2,
    }
    rootfs = {
        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "digest": sha256(b"x"),
        "size": 1,
    }
    body = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config,
        "layers": [rootfs],
    }
    misbehaving.put(NAME, "image", json.dumps(body).encode(), DOCKER_MANIFEST)
    assert (await client.manifest(kitchen, "image")).artifact_type == config["mediaType"]
    with pytest.raises(UnsupportedManifest, match="holds an archive"):
        await resolve(client, kitchen, tag="image")


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
    with pytest.raises(UnsupportedManifest, match="holds an archive"):
        await resolve(client, source, tag="folder")
