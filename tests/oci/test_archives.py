"""A file in an archive layer, from a registry: unpacked as it comes, bounded, and checked."""

import gzip
import hashlib
import random
import zlib

import pytest

from otaflux_oci import (
    ArchivedFile,
    Descriptor,
    DigestMismatch,
    InvalidArchive,
    Limits,
    NoFirmwareLayer,
    RegistryClient,
    RegistryUnreachable,
    Repository,
    TooLarge,
    archived_file,
    find_file,
)
from tests.fixtures.image_registries import (
    DOCKER_LAYER,
    OCI_GZIP_LAYER,
    OCI_LAYER,
    packed,
    tar_of,
)
from tests.fixtures.loopback_servers import Reply, Request
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import FIRMWARE

FILES = {"README": b"read me", "fw/app.bin": FIRMWARE}
APP = ArchivedFile("fw/app.bin", sha256(FIRMWARE), len(FIRMWARE))


def put(
    registry: MisbehavingRegistry, layer: bytes, media_type: str = OCI_GZIP_LAYER
) -> Descriptor:
    registry.blobs[sha256(layer)] = layer
    return Descriptor(media_type, sha256(layer), len(layer))


async def content(
    client: RegistryClient, repository: Repository, layer: Descriptor, path: str
) -> bytes:
    async with archived_file(client, repository, layer, path) as parts:
        return b"".join([part async for part in parts])


@pytest.mark.parametrize(
    ("layer", "media_type"),
    [
        (packed(FILES), OCI_GZIP_LAYER),
        (packed(FILES), DOCKER_LAYER),
        (tar_of(FILES), OCI_LAYER),
        (gzip.compress(tar_of({**FILES, "zeros": bytes(5_000_000)}), 9), OCI_GZIP_LAYER),
    ],
)
async def test_a_file_is_found_and_read(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    layer: bytes,
    media_type: str,
) -> None:
    stored = put(misbehaving, layer, media_type)
    assert await find_file(client, kitchen, stored, path="fw/app.bin") == APP
    assert await content(client, kitchen, stored, "fw/app.bin") == FIRMWARE


@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1024, 256 * 1024, 3_000_000])
async def test_what_packs_well_comes_whole(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient, size: int
) -> None:
    firmware = b"\xff" * size
    stored = put(misbehaving, packed({"app.bin": firmware}))
    found = await find_file(client, kitchen, stored)
    assert found == ArchivedFile("app.bin", sha256(firmware), size)
    assert await content(client, kitchen, stored, found.path) == firmware


async def test_a_transfer_that_breaks_off_goes_on_where_it_was(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    layer = packed(FILES)
    stored = put(misbehaving, layer)
    broken = [True]

    def cut(request: Request) -> Reply | None:
        if "blobs" in request.path and broken:
            broken.clear()
            return Reply(body=layer, cut=len(layer) // 2)
        return None

    misbehaving.rules.append(cut)
    assert await content(client, kitchen, stored, "fw/app.bin") == FIRMWARE
    assert [request.headers.get("range") for request in misbehaving.asked("blobs")] == [
        None,
        f"bytes={len(layer) // 2}-",
    ]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (packed(FILES)[:-1], "gzip stream does not end"),
        (packed(FILES)[:-100_000], "gzip stream does not end"),
        (packed(FILES) + b"\0", "goes on after the end"),
        (packed(FILES) + packed(FILES), "goes on after the end"),
        (packed(FILES)[:-8] + bytes(8), "not gzip, or is damaged"),
        (tar_of(FILES), "not gzip, or is damaged"),
        (zlib.compress(tar_of(FILES)), "not gzip, or is damaged"),
        (b"", "gzip stream does not end"),
        (gzip.compress(b""), "cut off"),
        (gzip.compress(tar_of(FILES) + b"x"), "follows its end"),
    ],
    ids=range(10),  # not by bytes that hold the time
)
async def test_what_is_no_whole_archive_is_refused(
    misbehaving: MisbehavingRegistry,
    kitchen: Repository,
    client: RegistryClient,
    layer: bytes,
    message: str,
) -> None:
    stored = put(misbehaving, layer)
    with pytest.raises(InvalidArchive, match=message):
        await find_file(client, kitchen, stored, path="fw/app.bin")
    with pytest.raises(InvalidArchive, match=message):
        await content(client, kitchen, stored, "fw/app.bin")


async def test_bytes_that_are_not_those_of_the_layer(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    layer = packed(FILES)
    stored = put(misbehaving, layer)
    for changed in (
        layer[:1000] + bytes(1000) + layer[2000:],  # no gzip any more
        packed({**FILES, "fw/app.bin": FIRMWARE[::-1]})[: len(layer)].ljust(len(layer), b"\0"),
    ):
        misbehaving.blobs[stored.digest] = changed
        with pytest.raises(DigestMismatch):
            await find_file(client, kitchen, stored, path="fw/app.bin")
        with pytest.raises(DigestMismatch):
            await content(client, kitchen, stored, "fw/app.bin")


async def test_another_path_is_not_served_instead(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    stored = put(misbehaving, packed(FILES))
    with pytest.raises(NoFirmwareLayer, match=r"no file 'app\.bin', only 'README', 'fw/app\.bin'"):
        await content(client, kitchen, stored, "app.bin")


async def test_an_archive_over_the_limit_is_not_asked_for(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    stored = put(misbehaving, packed(FILES))
    limits = Limits(blob_bytes=stored.size - 1)
    with pytest.raises(TooLarge, match=f"the limit is {stored.size - 1}"):
        await find_file(client, kitchen, stored, path="fw/app.bin", limits=limits)
    assert misbehaving.asked("blobs") == []


async def test_all_files_together_count(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    whole = len(tar_of(FILES))
    stored = put(misbehaving, packed(FILES))
    found = await find_file(
        client, kitchen, stored, path="fw/app.bin", limits=Limits(blob_bytes=whole)
    )
    assert found == APP
    with pytest.raises(TooLarge, match=f"more than {whole - 1} bytes"):
        await find_file(
            client, kitchen, stored, path="fw/app.bin", limits=Limits(blob_bytes=whole - 1)
        )


async def test_reading_an_archive_does_not_take_for_ever(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    stored = put(misbehaving, packed(FILES))
    with pytest.raises(RegistryUnreachable, match="did not come within 0 s"):
        await find_file(
            client, kitchen, stored, path="fw/app.bin", limits=Limits(archive_seconds=0)
        )


async def test_an_image_of_many_parts(
    misbehaving: MisbehavingRegistry, kitchen: Repository, client: RegistryClient
) -> None:
    """More than a step of zlib and a part of the network hold, of what packs badly and well."""
    draw = random.Random(5)
    firmware = b"".join(
        draw.randbytes(draw.randrange(300_000)) + bytes(draw.randrange(900_000)) for _ in range(20)
    )
    stored = put(misbehaving, packed({"a/": b"", "a/app.bin": firmware, "z": FIRMWARE}))
    read = await content(client, kitchen, stored, "a/app.bin")
    assert hashlib.sha256(read).digest() == hashlib.sha256(firmware).digest()
