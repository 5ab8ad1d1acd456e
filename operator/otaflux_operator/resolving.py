"""Looks artifacts up in their registries, beside the reconciliation and never in its way."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import random

from structlog import get_logger

from otaflux_oci import OciError, RateLimited, Repository, resolve
from otaflux_operator import metrics
from otaflux_operator.accesses import SecretProblem, registry_access
from otaflux_operator.engine import Failure, Found, Resolution
from otaflux_operator.handover import Handover
from otaflux_operator.ports import Key, Secrets, Sources, Unavailable
from otaflux_operator.queues import Backoff, KeyedQueue, work
from otaflux_operator.reasons import Reason, registry_reason
from otaflux_operator.resources import Artifact, FirmwareRollout
from otaflux_operator.timing import Timing
from otaflux_policy import contract
from otaflux_policy.credentials import RegistryAccess, entry_name

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    uid: str
    artifact: Artifact
    version: str

    @classmethod
    def of(cls, rollout: FirmwareRollout) -> "_Request":
        return cls(rollout.metadata.uid, rollout.spec.artifact, rollout.spec.version)

    def asks_the_same(self, other: "_Request") -> bool:
        same_interval = other.artifact.model_copy(update={"interval": self.artifact.interval})
        return replace(other, artifact=same_interval) == self


@dataclass(slots=True)
class _Job:
    request: _Request
    resolution: Resolution = field(default_factory=Resolution)
    entry: tuple[RegistryAccess, str] | None = None
    running: asyncio.Task[Resolution] | None = None


class Resolver:
    """Holds the last result per object, for exactly what its spec asks for.

    A tag or range is looked up again every `spec.artifact.interval`, after failures with
    backoff up to that. `news` is called with the key whenever the result changed.
    """

    def __init__(
        self,
        secrets: Secrets,
        sources: Sources,
        handover: Handover,
        news: Callable[[Key], None],
        timing: Timing,
    ) -> None:
        self._secrets = secrets
        self._sources = sources
        self._handover = handover
        self._news = news
        self._timing = timing
        self._jobs: dict[Key, _Job] = {}
        self._queue: KeyedQueue[Key] = KeyedQueue()
        self._backoff: Backoff[Key] = Backoff(timing.retry_first, timing.retry_most)

    def resolution(self, key: Key, rollout: FirmwareRollout) -> Resolution:
        """What is known of the artifact; the lookup is under way where nothing is."""
        request = _Request.of(rollout)
        job = self._jobs.get(key)
        if job is not None and job.request.asks_the_same(request):
            if job.request != request:
                job.request = request
                self._queue.put(key, self._until_next(request))
            return job.resolution
        if job is not None and job.running is not None:
            job.running.cancel()
        self._jobs[key] = _Job(request, entry=job.entry if job is not None else None)
        self._backoff.reset(key)
        self._queue.put(key)
        return Resolution()

    def forget(self, key: Key) -> None:
        """The object is gone."""
        job = self._jobs.pop(key, None)
        if job is not None and job.running is not None:
            job.running.cancel()
        self._queue.drop(key)
        self._backoff.reset(key)

    def entries(self) -> set[str]:
        """The credentials entries that are in use."""
        return {job.entry[1] for job in self._jobs.values() if job.entry is not None}

    async def run(self) -> None:
        """Works until cancelled."""
        await work(self._queue, self._handle, self._timing.resolve_workers)

    async def _handle(self, key: Key) -> None:
        job = self._jobs.get(key)
        if job is None:
            return
        job.running = asyncio.create_task(self._resolve(key, job))
        try:
            await asyncio.wait({job.running})
        except asyncio.CancelledError:
            job.running.cancel()
            raise
        running, job.running = job.running, None
        if running.cancelled() or self._jobs.get(key) is not job:
            return
        if (error := running.exception()) is not None:
            # A mistake of ours. Its text may hold anything, so it is not shown.
            log.error("lookup failed", object=str(key), error=type(error).__name__)
            self._queue.put(key, self._backoff.next(key))
            return
        resolution = running.result()
        changed = resolution != job.resolution
        job.resolution = resolution
        if changed:
            self._news(key)

    async def _resolve(self, key: Key, job: _Job) -> Resolution:
        before = job.resolution.found
        try:
            found = await self._find(key, job)
        except SecretProblem as problem:
            failure = Failure(problem.reason, str(problem), lasting=True)
        except Unavailable as error:
            failure = Failure(Reason.SECRET_UNAVAILABLE, str(error))
        except OciError as error:
            failure = Failure(registry_reason(error.reason), str(error), not error.retryable)
            wait = error.retry_after or 0.0 if isinstance(error, RateLimited) else 0.0
            self._retry(key, job, failure, wait)
            return Resolution(before, failure)
        else:
            metrics.RESOLUTIONS.inc()
            self._backoff.reset(key)
            self._queue.put(key, self._until_next(job.request))
            same = before is not None and replace(found, at=before.at) == before
            return Resolution(before if same else found)
        self._retry(key, job, failure, 0.0)
        return Resolution(before, failure)

    def _retry(self, key: Key, job: _Job, failure: Failure, wait: float) -> None:
        metrics.REGISTRY_ERRORS.labels(failure.reason).inc()
        log.warning(
            "artifact not resolved", object=str(key), reason=failure.reason, why=failure.message
        )
        delay = min(self._backoff.next(key), self._until_next(job.request))
        self._queue.put(key, max(delay, wait))

    async def _find(self, key: Key, job: _Job) -> Found:
        artifact, before = job.request.artifact, job.resolution.found
        repository = Repository.parse(artifact.repository)
        access = await registry_access(self._secrets, key.namespace, artifact, repository)
        entry = await self._entry(job, access)
        async with self._sources.open(repository, access, insecure=artifact.insecure) as source:
            if artifact.tag is not None and before is not None:
                digest = await source.digest(repository, artifact.tag)
                if digest == before.digest:
                    return _with_entry(before, entry)
            selector = artifact.layer_selector
            resolved = await resolve(
                source,
                repository,
                tag=artifact.tag,
                semver=artifact.semver,
                digest=artifact.digest,
                version=job.request.version,
                media_type=selector.media_type if selector is not None else "",
                title=selector.title if selector is not None else "",
            )
        return Found(
            version=resolved.version,
            digest=resolved.digest,
            artifact=contract.Artifact(
                digest=resolved.layer.digest,
                size=resolved.layer.size,
                media_type=resolved.layer.media_type,
                repository=str(repository),
                insecure=artifact.insecure,
                credentials=entry,
            ),
            at=datetime.now(UTC).replace(microsecond=0),
            by_range=artifact.semver is not None,
        )

    async def _entry(self, job: _Job, access: RegistryAccess) -> str | None:
        if access.is_empty:
            job.entry = None
            return None
        if job.entry is None or job.entry[0] != access:
            job.entry = access, await asyncio.to_thread(entry_name, access)
        name = job.entry[1]
        await self._handover.ensure(name, access)
        return name

    def _until_next(self, request: _Request) -> float:
        # The jitter keeps rollouts that were created together from asking together for ever.
        return request.artifact.interval.seconds * (1 + random() / 10)


def _with_entry(found: Found, entry: str | None) -> Found:
    return replace(found, artifact=found.artifact.model_copy(update={"credentials": entry}))
