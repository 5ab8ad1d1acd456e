"""Fetches what policies list into the store: one pull per digest, retried until it is there."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import structlog

from otaflux_oci import (
    BlobStream,
    Descriptor,
    Limits,
    OciError,
    RateLimited,
    Repository,
    Source,
    archived_file,
)
from otaflux_policy.contract import Artifact
from otaflux_policy.served import ArtifactState, ServedArtifact
from otaflux_server.artifacts import ArtifactError, ArtifactStore
from otaflux_server.metrics import Metrics
from otaflux_server.settings import ArtifactSettings

log = structlog.get_logger(__name__)

ArtifactSource = Callable[[Artifact], AbstractAsyncContextManager[Source]]
"""Gives the source of an artifact's bytes; entering it may raise ArtifactError or OciError."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last try of a pull failed."""

    reason: str
    message: str


class Fetcher:
    """Keeps the store filled with what is wanted. `start` after the store was loaded."""

    def __init__(
        self,
        store: ArtifactStore,
        source: ArtifactSource,
        settings: ArtifactSettings,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._wanted: dict[str, list[Artifact]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._failures: dict[str, Failure] = {}
        self._slots = asyncio.Semaphore(settings.concurrent_pulls)
        self._evictions: set[asyncio.Task[None]] = set()
        self._running = False

    def start(self) -> None:
        """Begins to fetch; before, `want` only takes note."""
        self._running = True
        self._update()

    def want(self, artifacts: Iterable[Artifact]) -> None:
        """The complete list of what must be stored, and may never be evicted."""
        wanted: dict[str, list[Artifact]] = {}
        for artifact in artifacts:
            known = wanted.setdefault(artifact.digest, [])
            if artifact not in known:
                known.append(artifact)
        if wanted == self._wanted:
            return
        # Another repository or other credentials for a digest are a reason to try at once.
        changed = [digest for digest in wanted if wanted[digest] != self._wanted.get(digest)]
        self._wanted = wanted
        self._update()
        for digest in changed:
            self._nudge(digest)

    def retry_now(self) -> None:
        """Tries failed pulls at once: credentials changed."""
        for digest in self._failures:
            self._nudge(digest)

    def state(self, digest: str) -> ServedArtifact:
        """How far the server is with the artifact."""
        if self._store.get(digest) is not None:
            return ServedArtifact(digest=digest, state=ArtifactState.STORED)
        failure = self._failures.get(digest)
        if failure is None:
            return ServedArtifact(digest=digest, state=ArtifactState.FETCHING)
        return ServedArtifact(
            digest=digest,
            state=ArtifactState.FAILED,
            reason=failure.reason,
            message=failure.message,
        )

    def states(self) -> list[ServedArtifact]:
        """The state of all that is wanted."""
        return [self.state(digest) for digest in self._wanted]

    def refresh(self) -> None:
        """Looks again at what is stored: an artifact may be gone from the store."""
        self._update()

    async def close(self) -> None:
        """Ends all pulls."""
        self._running = False
        tasks = [*self._tasks.values(), *self._evictions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _nudge(self, digest: str) -> None:
        if digest in self._nudges:
            self._nudges[digest].set()

    def _update(self) -> None:
        if self._running:
            for digest in [*self._tasks]:
                if digest not in self._wanted:
                    self._tasks.pop(digest).cancel()
                    del self._nudges[digest]
            for digest in self._wanted:
                if digest not in self._tasks and self._store.get(digest) is None:
                    self._begin(digest)
            self._evict()
        self._failures = {
            digest: failure
            for digest, failure in self._failures.items()
            if digest in self._wanted and self._store.get(digest) is None
        }
        self._count()

    def _is_wanted(self, digest: str) -> bool:
        return digest in self._wanted

    def _begin(self, digest: str) -> None:
        self._nudges[digest] = asyncio.Event()
        task = asyncio.create_task(self._pull(digest, self._nudges[digest]), name=f"pull {digest}")
        self._tasks[digest] = task

        def ended(_: asyncio.Task[None]) -> None:
            if self._tasks.get(digest) is task:
                del self._tasks[digest]
                del self._nudges[digest]
                # It may have turned out to be damaged before its pull had quite ended.
                if self._running and self._is_wanted(digest) and self._store.get(digest) is None:
                    self._begin(digest)

        task.add_done_callback(ended)

    def _evict(self) -> None:
        task = asyncio.create_task(self._store.evict(self._is_wanted))
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)

    async def _pull(self, digest: str, nudge: asyncio.Event) -> None:
        attempt = 0
        while True:
            choices = self._wanted[digest]
            artifact = choices[attempt % len(choices)]
            nudge.clear()
            try:
                async with self._slots:
                    await self._pull_once(artifact)
                break
            except (ArtifactError, OciError) as error:
                self._failed(artifact, Failure(error.reason, str(error)), attempt)
                asked = error.retry_after if isinstance(error, RateLimited) else None
            except Exception as error:  # a fault of ours must not end the pulls of this digest
                log.exception("pull failed unexpectedly", digest=digest)
                self._failed(artifact, Failure("PullFailed", type(error).__name__), attempt)
                asked = None
            wait = asked or self._pause(attempt)
            attempt += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(nudge.wait(), wait)
                attempt = 0
        self._failures.pop(digest, None)
        self._metrics.pulls.labels("Stored").inc()
        log.info("artifact stored", digest=digest, size=artifact.size)
        self._count()

    async def _pull_once(self, artifact: Artifact) -> None:
        if artifact.size <= self._settings.max_artifact_bytes:
            await self._store.evict(self._is_wanted, room=artifact.size)
        async with (
            self._source(artifact) as source,
            self._bytes(source, artifact) as parts,
        ):
            await self._store.add(artifact.digest, artifact.size, parts)

    def _bytes(self, source: Source, artifact: Artifact) -> BlobStream:
        repository = Repository.parse(artifact.repository)
        blob = artifact if artifact.archive is None else artifact.archive
        descriptor = Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)
        if artifact.archive is None:
            return source.blob(repository, descriptor)
        limits = Limits(blob_bytes=self._settings.max_artifact_bytes)
        return archived_file(source, repository, descriptor, artifact.archive.path, limits=limits)

    def _failed(self, artifact: Artifact, failure: Failure, attempt: int) -> None:
        self._failures[artifact.digest] = failure
        self._metrics.pulls.labels(failure.reason).inc()
        log.warning(
            "artifact not pulled",
            digest=artifact.digest,
            repository=artifact.repository,
            reason=failure.reason,
            message=failure.message,
            attempt=attempt + 1,
        )
        self._count()

    def _pause(self, attempt: int) -> float:
        longest: float = self._settings.retry_seconds * 2 ** min(attempt, 30)
        return min(longest, self._settings.max_retry_seconds) * random.uniform(0.5, 1.0)

    def _count(self) -> None:
        counts = Counter(state.state for state in self.states())
        for state in ArtifactState:
            self._metrics.artifacts.labels(state.value).set(counts[state])
