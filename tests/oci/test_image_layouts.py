"""An OCI image layout on disk: what we write, what other tools write, what is broken."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    FIRMWARE_ARTIFACT_TYPE,
    FIRMWARE_MEDIA_TYPE,
    Descriptor,
    DigestMismatch,
    ImageLayout,
    InvalidReference,
    Limits,
    ManifestNotFound,
    NotFound,
    OciError,
    RegistryError,
    Repository,
    TooLarge,
    UnsupportedManifest,
    VersionMismatch,
    resolve,
)
from tests.fixtures.misbehaving_registries import sha256
from tests.fixtures.oci_sources import FIRMWARE, read

KITCHEN = Repository("registry.example.com:5000", "firmware/kitchen")
LAMP = Repository("registry.example.com:5000", "firmware/lamp")
VERSION = "org.opencontainers.image.version"
TITLE = "org.opencontainers.image.title"


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "app.bin"
    path.write_bytes(FIRMWARE)
    return path


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "layout")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "layout"


async def test_what_was_added_is_read(layout: ImageLayout, folder: Path, firmware: Path) -> None:
    added = layout.add(KITCHEN, firmware, version="1.4.0")
    assert added.artifact_type == FIRMWARE_ARTIFACT_TYPE
    assert added.annotations == {VERSION: "1.4.0"}
    release = await resolve(layout, KITCHEN, tag="1.4.0")
    assert (release.version, release.digest) == ("1.4.0", added.digest)
    assert (release.layer.media_type, release.layer.title) == (FIRMWARE_MEDIA_TYPE, "app.bin")
    assert await read(layout, KITCHEN, release.layer) == FIRMWARE
    assert await read(layout, KITCHEN, release.layer, offset=1000) == FIRMWARE[1000:]
    assert await layout.digest(KITCHEN, "1.4.0") == added.digest
    assert await resolve(layout, KITCHEN, semver="^1") == release
    assert (await resolve(layout, KITCHEN, digest=added.digest)).version == "1.4.0"
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    blobs = {path.name for path in (folder / "blobs" / "sha256").iterdir()}
    assert len(blobs) == 3
    assert {path.name for path in folder.iterdir()} == {"oci-layout", "index.json", "blobs"}


async def test_repositories_are_kept_apart(layout: ImageLayout, firmware: Path) -> None:
    layout.add(KITCHEN, firmware, version="1.4.0")
    layout.add(KITCHEN, firmware, version="1.5.0")
    firmware.write_bytes(b"lamp")
    lamp = layout.add(LAMP, firmware, version="1.4.0")
    assert await layout.tags(KITCHEN) == ["1.4.0", "1.5.0"]
    assert await layout.tags(LAMP) == ["1.4.0"]
    assert await layout.tags(Repository("other.example.com", "firmware/lamp")) == []
    assert await layout.digest(LAMP, "1.4.0") == lamp.digest
    assert await layout.digest(KITCHEN, "1.4.0") != lamp.digest
    with pytest.raises(ManifestNotFound, match=r"lamp:1\.5\.0 is not in .*otaflux firmware add"):
        await layout.manifest(LAMP, "1.5.0")


async def test_a_tag_moves_and_the_old_digest_stays_readable(
    layout: ImageLayout, firmware: Path
) -> None:
    old = layout.add(KITCHEN, firmware, version="1.4.0", tag="stable")
    firmware.write_bytes(b"new")
    new = layout.add(KITCHEN, firmware, version="1.5.0", tag="stable")
    assert await layout.tags(KITCHEN) == ["stable"]
    assert (await layout.manifest(KITCHEN, "stable")) == new
    assert (await layout.manifest(KITCHEN, old.digest)) == old
    assert await read(layout, KITCHEN, old.layers[0]) == FIRMWARE


def test_the_same_file_gives_the_same_digest(tmp_path: Path, firmware: Path) -> None:
    one, two = ImageLayout(tmp_path / "one"), ImageLayout(tmp_path / "two")
    assert one.add(KITCHEN, firmware, version="1.4.0") == two.add(LAMP, firmware, version="1.4.0")
    assert one.add(KITCHEN, firmware, version="1.4.0") == one.add(
        KITCHEN, firmware, version="1.4.0"
    )
    other = one.add(KITCHEN, firmware, version="1.4.1")
    assert other != one.add(KITCHEN, firmware, version="1.4.0")


def test_options_of_adding(layout: ImageLayout, firmware: Path) -> None:
    added = layout.add(
        KITCHEN,
        firmware,
        version="1.4.0+build.5",
        title="kitchen.bin",
        media_type="application/vnd.espressif.esp32.firmware.v1+binary",
        annotations={"product": "kitchen", VERSION: "overridden"},
    )
    assert added.annotations == {"product": "kitchen", VERSION: "1.4.0+build.5"}
    assert added.layers[0].title == "kitchen.bin"
    assert asyncio.run(layout.tags(KITCHEN)) == ["1.4.0_build.5"]


@pytest.mark.parametrize(
    ("version", "tag", "kind"),
    [
        ("1.4.0", "1.5.0", VersionMismatch),
        ("1 4", "x", UnsupportedManifest),
        ("", "", InvalidReference),
        ("", "x", UnsupportedManifest),
        ("1.4.0", "a/b", InvalidReference),
        ("a" * 129, "", InvalidReference),
    ],
)
def test_what_cannot_be_added(
    layout: ImageLayout, folder: Path, firmware: Path, version: str, tag: str, kind: type[OciError]
) -> None:
    with pytest.raises(kind):
        layout.add(KITCHEN, firmware, version=version, tag=tag)
    assert not folder.exists()


def test_files_that_cannot_be_added(tmp_path: Path, firmware: Path) -> None:
    layout = ImageLayout(tmp_path / "layout", limits=Limits(blob_bytes=1000))
    with pytest.raises(TooLarge, match=r"app\.bin is larger than 1000"):
        layout.add(KITCHEN, firmware, version="1.4.0")
    with pytest.raises(FileNotFoundError):
        layout.add(KITCHEN, tmp_path / "none.bin", version="1.4.0")
    left = {path.name for path in (tmp_path / "layout").iterdir()}
    assert left == {"oci-layout", "blobs"}


def test_adding_at_the_same_time_loses_nothing(folder: Path, firmware: Path) -> None:
    versions = [f"1.{number}.0" for number in range(12)]
    threads = [
        threading.Thread(
            target=lambda version=version: ImageLayout(folder).add(
                KITCHEN, firmware, version=version
            )
        )
        for version in versions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asyncio.run(ImageLayout(folder).tags(KITCHEN))) == sorted(versions)


async def test_broken_blobs_are_noticed(layout: ImageLayout, folder: Path, firmware: Path) -> None:
    added = layout.add(KITCHEN, firmware, version="1.4.0")
    layer = added.layers[0]
    blobs = folder / "blobs" / "sha256"
    path = blobs / layer.digest.removeprefix("sha256:")
    for broken in (FIRMWARE[:-1], FIRMWARE + b"x", b"x" + FIRMWARE[1:], b""):
        path.write_bytes(broken)
        with pytest.raises(DigestMismatch):
            await read(layout, KITCHEN, layer)
    path.unlink()
    with pytest.raises(NotFound, match="not in the image layout"):
        await read(layout, KITCHEN, layer)
    manifest = blobs / added.digest.removeprefix("sha256:")
    manifest.write_bytes(manifest.read_bytes().replace(b"1.4.0", b"1.5.0"))
    for reference in ("1.4.0", added.digest):
        with pytest.raises(DigestMismatch):
            await layout.manifest(KITCHEN, reference)
    manifest.unlink()
    for reference in ("1.4.0", added.digest):
        with pytest.raises(ManifestNotFound):
            await layout.manifest(KITCHEN, reference)


async def test_a_disk_that_fails_is_one_of_our_errors(
    layout: ImageLayout, folder: Path, firmware: Path
) -> None:
    added = layout.add(KITCHEN, firmware, version="1.4.0")
    layer = added.layers[0]
    for digest in (layer.digest, added.digest):
        path = folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
        path.unlink()
        path.mkdir()
    with pytest.raises(RegistryError, match="cannot be read") as failed:
        await read(layout, KITCHEN, layer)
    assert failed.value.retryable
    with pytest.raises(RegistryError, match="cannot be read"):
        await layout.manifest(KITCHEN, added.digest)
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()
    with pytest.raises(RegistryError, match="cannot be read"):
        await layout.tags(KITCHEN)


async def test_no_layout_there(layout: ImageLayout) -> None:
    with pytest.raises(NotFound, match=r"not an OCI image layout.*firmware add"):
        await layout.tags(KITCHEN)
    with pytest.raises(NotFound):
        await layout.manifest(KITCHEN, "1.4.0")
    with pytest.raises(ManifestNotFound):
        await layout.manifest(KITCHEN, sha256(b"x"))


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"manifests": {}}', '{"manifests": [5]}'])
async def test_an_index_that_is_none(layout: ImageLayout, folder: Path, index: str) -> None:
    folder.mkdir()
    (folder / "index.json").write_text(index)
    with pytest.raises(RegistryError, match="not the index"):
        await layout.tags(KITCHEN)


def entry(ref_name: Any, digest: str = "sha256:" + "0" * 64) -> dict[str, Any]:
    return {"digest": digest, "annotations": {"org.opencontainers.image.ref.name": ref_name}}


async def test_entries_that_name_nothing_are_passed_over(layout: ImageLayout, folder: Path) -> None:
    folder.mkdir()
    entries: list[Any] = [
        {},
        {"annotations": 5},
        entry(5),
        entry(""),
        entry(":"),
        entry("1.4.0"),
        entry("https://x:1.4.0"),
        entry(f"{KITCHEN}:../x"),
        entry(f"{KITCHEN}:1.4.0", "sha256:../../x"),
        entry(f"{KITCHEN}:good"),
    ]
    (folder / "index.json").write_text(json.dumps({"manifests": entries}))
    assert await layout.tags(KITCHEN) == ["good"]
    bare = ImageLayout(folder, repository=KITCHEN)
    assert await bare.tags(KITCHEN) == ["1.4.0", "good"]
    assert await bare.tags(LAMP) == []


async def test_a_name_that_is_there_twice(layout: ImageLayout, folder: Path) -> None:
    folder.mkdir()
    entries = [entry(f"{KITCHEN}:x", sha256(text)) for text in (b"a", b"b")]
    (folder / "index.json").write_text(json.dumps({"manifests": entries}))
    with pytest.raises(RegistryError, match="there twice"):
        await layout.manifest(KITCHEN, "x")
    with pytest.raises(RegistryError, match="there twice"):
        await layout.digest(KITCHEN, "x")


async def test_a_layout_that_oras_writes(
    registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path, firmware: Path
) -> None:
    await oras("push", "--oci-layout", "foreign:1.4.0", "app.bin", cwd=tmp_path)
    layout = ImageLayout(tmp_path / "foreign", repository=LAMP)
    release = await resolve(layout, LAMP, tag="1.4.0")
    assert await read(layout, LAMP, release.layer) == FIRMWARE
    # Ours besides it, and theirs is still there.
    layout.add(KITCHEN, firmware, version="2.0.0")
    assert await layout.tags(LAMP) == ["1.4.0"]
    assert await layout.tags(KITCHEN) == ["2.0.0"]
    assert "1.4.0" in await oras("repo", "tags", "--oci-layout", "foreign", cwd=tmp_path)


async def test_oras_reads_what_we_write(
    registry_v3: Registry,
    oras: Oras,
    repository: str,
    layout: ImageLayout,
    tmp_path: Path,
    firmware: Path,
) -> None:
    added = layout.add(KITCHEN, firmware, version="1.4.0")
    target = f"{registry_v3.host}/{repository}:1.4.0"
    await oras(
        "copy", "--from-oci-layout", "--to-plain-http", f"layout@{added.digest}", target,
        cwd=tmp_path,
    )  # fmt: skip
    await oras("pull", "--plain-http", target, "--output", "pulled", cwd=tmp_path)
    assert (tmp_path / "pulled" / "app.bin").read_bytes() == FIRMWARE


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=2000), offset=st.integers(0, 2000))
async def test_any_content_from_any_offset(
    layout: ImageLayout, tmp_path: Path, content: bytes, offset: int
) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    layer = layout.add(KITCHEN, tmp_path / "x.bin", version="1.0.0").layers[0]
    assert layer == Descriptor(FIRMWARE_MEDIA_TYPE, sha256(content), len(content), {TITLE: "x.bin"})
    offset = min(offset, len(content))
    assert await read(layout, KITCHEN, layer, offset=offset) == content[offset:]
