"""Firmware out of an archive: what is stored is the file, and only if it is the one announced."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from otaflux_oci import Descriptor, RegistryUnreachable
from otaflux_policy.contract import Archive, Artifact
from otaflux_policy.served import ArtifactState
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.fetching import Fetcher
from otaflux_server.metrics import Metrics
from otaflux_server.settings import ArtifactSettings
from tests.fixtures.image_registries import OCI_GZIP_LAYER, packed
from tests.server.fleets import MemorySource, digest_of, firmware, release, until

CONTENT = firmware("1.4.0", 3_000_000)
LAYER = packed({"README": b"read me", "fw/app.bin": CONTENT})
DIGEST = digest_of(CONTENT)


@dataclass
class BreakingSource(MemorySource):
    """Breaks off in the middle so many times."""

    breaks: int = 0
    sent: list[int] = field(default_factory=list)

    async def _parts(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        self.sent.append(0)
        async for part in super()._parts(descriptor):
            self.sent[-1] += len(part)
            yield part
            if self.breaks and self.sent[-1] > descriptor.size // 2:
                self.breaks -= 1
                raise RegistryUnreachable("it broke off")


class World:
    """A store, a source, and the fetcher between them."""

    def __init__(self, path: Path, **fields: int) -> None:
        options = ArtifactSettings(retry_seconds=0.01, max_retry_seconds=0.02, **fields)
        metrics = Metrics()
        self.path = path
        self.store = ArtifactStore(path, options, metrics)
        self.store.load()
        self.source = BreakingSource()
        self.source.add(LAYER)
        self.fetcher = Fetcher(self.store, self.source, options, metrics)
        self.store.subscribe(self.fetcher.refresh)
        self.fetcher.start()

    def files(self) -> list[str]:
        return sorted(found.name for found in self.path.rglob("*") if found.is_file())

    async def __aenter__(self) -> "World":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.fetcher.close()


def wanted(content: bytes = CONTENT, path: str = "fw/app.bin", layer: bytes = LAYER) -> Artifact:
    archive = Archive(
        digest=digest_of(layer), size=len(layer), media_type=OCI_GZIP_LAYER, path=path
    )
    return release("1.4.0", content, archive=archive).firmware


async def test_the_file_is_stored_and_not_the_archive(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.fetcher.want([wanted()])
        await until(lambda: world.store.get(DIGEST) is not None)
        stored = world.store.get(DIGEST)
        assert stored is not None
        assert stored.path.read_bytes() == CONTENT
        assert world.files() == [stored.sha256, f"{stored.sha256}.json"]
        assert world.source.pulls == [digest_of(LAYER)]


async def test_a_broken_pull_begins_the_archive_again(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.source.breaks = 2
        world.fetcher.want([wanted()])
        await until(lambda: world.store.get(DIGEST) is not None)
        assert [sent < len(LAYER) for sent in world.source.sent] == [True, True, False]
        stored = world.store.get(DIGEST)
        assert stored is not None
        assert stored.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (wanted(CONTENT[::-1]), "DigestMismatch"),
        (wanted(CONTENT[:-1]), "DigestMismatch"),
        (wanted(CONTENT + b"x"), "DigestMismatch"),
        (wanted(b""), "DigestMismatch"),
        (wanted(path="README"), "DigestMismatch"),
        (wanted(path="app.bin"), "NoFirmwareLayer"),
        (wanted(path="../app.bin"), "InvalidArchive"),
    ],
)
async def test_what_is_not_as_announced_is_refused(
    tmp_path: Path, artifact: Artifact, reason: str
) -> None:
    async with World(tmp_path) as world:
        world.fetcher.want([artifact])
        await until(lambda: world.fetcher.state(artifact.digest).reason == reason)
        assert world.fetcher.state(artifact.digest).state is ArtifactState.FAILED
        world.fetcher.want([])
        await until(lambda: world.files() == [])


async def test_an_archive_over_the_limit_is_not_pulled(tmp_path: Path) -> None:
    async with World(tmp_path, max_artifact_bytes=len(LAYER) - 1) as world:
        small = firmware("small", 10)
        world.fetcher.want([wanted(small)])
        await until(lambda: world.fetcher.state(digest_of(small)).reason == "TooLarge")
        assert world.source.pulls == []
