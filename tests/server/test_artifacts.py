"""The artifact store and what fills it: failing sources, single flight, restarts, full disks."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otaflux_oci import Forbidden, RateLimited, RegistryUnreachable
from otaflux_policy.served import ArtifactState
from otaflux_server.artifacts import (
    ArtifactMismatch,
    ArtifactStore,
    ArtifactTooLarge,
    StorageFailed,
    StorageFull,
)
from otaflux_server.fetching import Fetcher
from otaflux_server.metrics import Metrics
from otaflux_server.settings import ArtifactSettings
from tests.server.fleets import MemorySource, digest_of, firmware, release, until

CONTENT = firmware("1.4.0", 3_000_000)
DIGEST = digest_of(CONTENT)


def store_at(path: Path, **fields: Any) -> ArtifactStore:
    store = ArtifactStore(path, ArtifactSettings(**fields), Metrics())
    store.load()
    return store


async def parts(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def files(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


class TestStore:
    async def test_what_comes_is_stored_and_hashed(self, tmp_path: Path) -> None:
        store = store_at(tmp_path)
        artifact = await store.add(DIGEST, len(CONTENT), parts(CONTENT))
        assert artifact.path.read_bytes() == CONTENT
        assert artifact.size == len(CONTENT)
        assert artifact.crc32 == zlib.crc32(CONTENT)
        assert artifact.md5 == hashlib.md5(CONTENT).hexdigest()
        assert artifact.sha1 == hashlib.sha1(CONTENT).hexdigest()
        assert artifact.digest == f"sha256:{artifact.sha256}" == DIGEST
        assert DIGEST in store.digests
        name = f"sha256/{artifact.sha256}"
        assert files(tmp_path) == [name, f"{name}.json"]

    async def test_nothing_at_all_can_be_stored(self, tmp_path: Path) -> None:
        store = store_at(tmp_path)
        artifact = await store.add(digest_of(b""), 0, parts(b""))
        assert (artifact.size, artifact.crc32) == (0, 0)

    @pytest.mark.parametrize(
        ("content", "size"),
        [
            (CONTENT[:-1], len(CONTENT)),
            (CONTENT + b"x", len(CONTENT)),
            (CONTENT[:-1] + b"x", len(CONTENT)),
            (b"", len(CONTENT)),
            (CONTENT, len(CONTENT) - 1),
        ],
    )
    async def test_other_bytes_leave_no_trace(
        self, tmp_path: Path, content: bytes, size: int
    ) -> None:
        store = store_at(tmp_path)
        with pytest.raises(ArtifactMismatch):
            await store.add(DIGEST, size, parts(content))
        assert files(tmp_path) == []
        assert store.get(DIGEST) is None

    async def test_a_source_that_breaks_leaves_no_trace(self, tmp_path: Path) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield CONTENT[:2_000_000]
            raise RegistryUnreachable("it broke off")

        store = store_at(tmp_path)
        with pytest.raises(RegistryUnreachable):
            await store.add(DIGEST, len(CONTENT), broken())
        assert files(tmp_path) == []

    async def test_what_is_too_large_is_not_even_read(self, tmp_path: Path) -> None:
        store = store_at(tmp_path, max_artifact_bytes=100)
        with pytest.raises(ArtifactTooLarge, match="limit is 100"):
            await store.add(DIGEST, 101, parts(CONTENT))

    async def test_a_disk_without_room_is_said_before(self, tmp_path: Path) -> None:
        store = store_at(tmp_path, free_bytes=2**62)
        with pytest.raises(StorageFull, match="do not fit"):
            await store.add(DIGEST, len(CONTENT), parts(CONTENT))

    @pytest.mark.parametrize(
        ("number", "error"),
        [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed)],
    )
    async def test_a_disk_that_fails_on_the_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
    ) -> None:
        store = store_at(tmp_path)

        def fail(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(error):
            await store.add(DIGEST, len(CONTENT), parts(CONTENT))
        assert files(tmp_path) == []

    async def test_it_survives_a_restart(self, tmp_path: Path) -> None:
        artifact = await store_at(tmp_path).add(DIGEST, len(CONTENT), parts(CONTENT))
        assert store_at(tmp_path).get(DIGEST) == artifact

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(b""),
            lambda path: path.unlink(),
            lambda path: path.with_suffix(".json").unlink(),
            lambda path: path.with_suffix(".json").write_text("{"),
            lambda path: path.with_suffix(".json").write_text("[]"),
            lambda path: path.with_suffix(".json").write_text(
                json.dumps(json.loads(path.with_suffix(".json").read_text()) | {"sha256": "0"})
            ),
        ],
        ids=["cut", "empty", "gone", "no facts", "half facts", "odd facts", "other facts"],
    )
    async def test_what_is_not_whole_at_start_is_dropped(
        self, tmp_path: Path, damage: Callable[[Path], object]
    ) -> None:
        artifact = await store_at(tmp_path).add(DIGEST, len(CONTENT), parts(CONTENT))
        damage(artifact.path)
        (tmp_path / "incoming" / "left-over").write_bytes(b"x")
        (tmp_path / "sha256" / "not a digest").write_bytes(b"x")
        store = store_at(tmp_path)
        assert store.get(DIGEST) is None
        await store.add(DIGEST, len(CONTENT), parts(CONTENT))
        assert len(files(tmp_path)) == 2

    async def test_eviction_takes_the_longest_unused_and_never_what_is_kept(
        self, tmp_path: Path
    ) -> None:
        store = store_at(tmp_path, max_bytes=2500)
        contents = [firmware(str(i), 1000) for i in range(5)]
        for content in contents:
            await store.add(digest_of(content), 1000, parts(content))
        store.used(digest_of(contents[1]))
        await store.evict(lambda digest: digest == digest_of(contents[0]))
        kept = {digest_of(contents[i]) for i in (0, 1)}
        assert store.digests == kept
        await store.evict(lambda _: True)
        assert store.digests == kept
        assert len(files(tmp_path)) == 4


class World:
    """A store, a source, and the fetcher between them."""

    def __init__(self, path: Path, **fields: Any) -> None:
        values = {"retry_seconds": 0.01, "max_retry_seconds": 0.02} | fields
        options = ArtifactSettings(**values)
        self.metrics = Metrics()
        self.store = ArtifactStore(path, options, self.metrics)
        self.store.load()
        self.source = MemorySource()
        self.fetcher = Fetcher(self.store, self.source, options, self.metrics)
        self.store.subscribe(self.fetcher.refresh)
        self.fetcher.start()

    def want(self, *contents: bytes) -> None:
        self.fetcher.want(release("1.4.0", content).firmware for content in contents)

    def pulled(self, result: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "otaflux_artifact_pulls_total", {"result": result}
        )
        return value or 0.0


@asynccontextmanager
async def world_at(path: Path, **fields: Any) -> AsyncIterator[World]:
    world = World(path, **fields)
    try:
        yield world
    finally:
        await world.fetcher.close()


class TestFetcher:
    async def test_what_is_wanted_is_fetched_once(self, tmp_path: Path) -> None:
        async with world_at(tmp_path) as world:
            world.source.add(CONTENT)
            world.source.gate = asyncio.Event()
            for _ in range(10):
                world.want(CONTENT, CONTENT)
                world.fetcher.refresh()
                await asyncio.sleep(0)
            assert world.fetcher.state(DIGEST).state is ArtifactState.FETCHING
            world.source.gate.set()
            await until(lambda: world.store.get(DIGEST) is not None)
            assert world.source.pulls == [DIGEST]
            assert world.fetcher.state(DIGEST).state is ArtifactState.STORED

    async def test_what_is_stored_is_not_fetched_again(self, tmp_path: Path) -> None:
        async with world_at(tmp_path) as world:
            world.source.add(CONTENT)
            world.want(CONTENT)
            await until(lambda: world.store.get(DIGEST) is not None)
        async with world_at(tmp_path) as world:
            world.want(CONTENT)
            assert world.fetcher.state(DIGEST).state is ArtifactState.STORED
            assert world.source.pulls == []

    async def test_pulls_at_one_time_are_bounded(self, tmp_path: Path) -> None:
        async with world_at(tmp_path, concurrent_pulls=2) as world:
            contents = [firmware(str(i), 5000) for i in range(8)]
            for content in contents:
                world.source.add(content)
            gate = world.source.gate = asyncio.Event()
            world.want(*contents)
            await until(lambda: world.source.running == 2)
            gate.set()
            await until(lambda: len(world.store.digests) == 8)
            assert world.source.most_running == 2

    @pytest.mark.parametrize("error", [RegistryUnreachable("x"), Forbidden("x"), RateLimited("x")])
    async def test_a_failure_is_told_and_tried_again(
        self, tmp_path: Path, error: Exception
    ) -> None:
        reason = error.reason  # type: ignore[attr-defined]  # all three are OciError
        async with world_at(tmp_path) as world:
            world.source.failures = [error] * 3  # type: ignore[list-item]  # as above
            gate = world.source.gate = asyncio.Event()
            gate.set()
            world.source.add(CONTENT)
            world.want(CONTENT)
            await until(lambda: world.fetcher.state(DIGEST).reason == reason)
            state = world.fetcher.state(DIGEST)
            assert (state.state, state.message) == (ArtifactState.FAILED, "x")
            await until(lambda: world.store.get(DIGEST) is not None)
            assert world.fetcher.state(DIGEST).reason == ""
            assert world.pulled(reason) == 3
            assert world.pulled("Stored") == 1

    async def test_a_fault_of_ours_ends_no_pull(self, tmp_path: Path) -> None:
        async with world_at(tmp_path) as world:
            world.source.failures = [ZeroDivisionError("bug")]  # type: ignore[list-item]  # a bug
            world.source.add(CONTENT)
            world.want(CONTENT)
            await until(lambda: world.store.get(DIGEST) is not None)
            assert world.pulled("PullFailed") == 1

    async def test_other_bytes_are_refused(self, tmp_path: Path) -> None:
        async with world_at(tmp_path) as world:
            world.source.blobs[DIGEST] = CONTENT[:-1] + b"x"
            world.want(CONTENT)
            await until(lambda: world.fetcher.state(DIGEST).reason == "DigestMismatch")
            assert world.store.get(DIGEST) is None

    async def test_what_is_no_longer_wanted_is_given_up(self, tmp_path: Path) -> None:
        async with world_at(tmp_path) as world:
            world.want(CONTENT)
            await until(lambda: bool(world.fetcher.state(DIGEST).reason))
            world.want()
            await until(lambda: not world.fetcher._tasks)
            assert world.fetcher.states() == []

    async def test_new_credentials_end_the_waiting(self, tmp_path: Path) -> None:
        waits = {"retry_seconds": 1000, "max_retry_seconds": 1000}
        async with world_at(tmp_path, **waits) as world:
            world.want(CONTENT)
            await until(lambda: bool(world.fetcher.state(DIGEST).reason))
            world.source.add(CONTENT)
            world.fetcher.retry_now()
            await until(lambda: world.store.get(DIGEST) is not None)

    async def test_a_changed_policy_ends_the_waiting(self, tmp_path: Path) -> None:
        waits = {"retry_seconds": 1000, "max_retry_seconds": 1000}
        async with world_at(tmp_path, **waits) as world:
            world.want(CONTENT)
            await until(lambda: bool(world.fetcher.state(DIGEST).reason))
            world.source.add(CONTENT)
            other = release("1.4.0", CONTENT, credentials="a" * 32).firmware
            world.fetcher.want([other])
            await until(lambda: world.store.get(DIGEST) is not None)

    async def test_only_what_is_not_wanted_is_evicted(self, tmp_path: Path) -> None:
        async with world_at(tmp_path, max_bytes=0) as world:
            old, new = firmware("1", 1000), firmware("2", 1000)
            world.source.add(old)
            world.source.add(new)
            world.want(old, new)
            await until(lambda: len(world.store.digests) == 2)
            world.want(new)
            await until(lambda: world.store.digests == {digest_of(new)})
            world.want(old, new)
            await until(lambda: len(world.store.digests) == 2)

    async def test_what_is_wanted_again_in_the_meantime_is_not_evicted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = firmware("1", 1000), firmware("2", 1000)
        deleting, go_on = threading.Event(), threading.Event()
        delete = ArtifactStore._delete

        def slowly(artifact: Any) -> None:
            deleting.set()
            assert go_on.wait(30)
            delete(artifact)

        monkeypatch.setattr(ArtifactStore, "_delete", staticmethod(slowly))
        async with world_at(tmp_path, max_bytes=0) as world:
            world.source.add(first)
            world.source.add(second)
            world.want(first, second)
            await until(lambda: len(world.store.digests) == 2)
            world.want()
            await until(deleting.is_set)
            (left,) = (item for item in (first, second) if digest_of(item) in world.store.digests)
            world.want(left)
            go_on.set()
            await until(lambda: not world.fetcher._evictions)
            assert world.store.digests == {digest_of(left)}
            assert world.source.pulls.count(digest_of(left)) == 1

    async def test_what_nobody_wants_makes_room_on_a_full_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new = firmware("1", 1000), firmware("2", 1000)

        def disk_usage(_: object) -> Any:
            used = sum(path.stat().st_size for path in tmp_path.glob("sha256/*") if not path.suffix)
            return SimpleNamespace(free=1500 - used)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        async with world_at(tmp_path, free_bytes=0) as world:
            world.source.add(old)
            world.source.add(new)
            world.want(old)
            await until(lambda: world.store.digests == {digest_of(old)})
            world.want(old, new)
            await until(lambda: world.fetcher.state(digest_of(new)).reason == "StorageFull")
            assert world.store.digests == {digest_of(old)}
            world.want(new)
            await until(lambda: world.store.digests == {digest_of(new)})

    async def test_what_is_damaged_while_its_pull_ends_is_fetched_again(
        self, tmp_path: Path
    ) -> None:
        async with world_at(tmp_path) as world:
            world.source.add(CONTENT)
            discarding: list[asyncio.Task[None]] = []

            def damaged() -> None:
                if DIGEST in world.store.digests and not discarding:
                    discarding.append(asyncio.create_task(world.store.discard(DIGEST)))

            world.store.subscribe(damaged)
            world.source.closing = asyncio.Event()
            world.want(CONTENT)
            await until(lambda: bool(discarding) and discarding[0].done())
            world.source.closing.set()
            await until(lambda: world.store.get(DIGEST) is not None)
            assert world.source.pulls == [DIGEST, DIGEST]
