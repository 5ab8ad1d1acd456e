"""Looks artifacts up in their registries, beside the reconciliation and never in its way."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import random

from structlog import get_logger

from otaflux_oci import OciError, RateLimited, Repository, Resolved, Source, resolve
from otaflux_operator import metrics
from otaflux_operator.accesses import SecretProblem, registry_access
from otaflux_operator.archives import Archives
from otaflux_operator.engine import Failure, Found, Proof, Resolution, Unverified
from otaflux_operator.handover import Handover
from otaflux_operator.ports import Key, Secrets, Sources, Unavailable
from otaflux_operator.queues import Backoff, KeyedQueue, work
from otaflux_operator.reasons import Reason, registry_reason
from otaflux_operator.resources import Artifact, FirmwareRollout, ReleaseStatus, Verify
from otaflux_operator.timing import Timing
from otaflux_operator.verifying import NotVerified, Verifier, signers
from otaflux_policy.credentials import RegistryAccess, entry_name

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    uid: str
    artifact: Artifact
    version: str
    models: tuple[str, ...]
    verify: Verify | None

    @classmethod
    def of(cls, rollout: FirmwareRollout) -> "_Request":
        spec = rollout.spec
        models = spec.compatibility.models
        return cls(rollout.metadata.uid, spec.artifact, spec.version, models, spec.verify)

    def asks_the_same(self, other: "_Request") -> bool:
        same_interval = other.artifact.model_copy(update={"interval": self.artifact.interval})
        return replace(other, artifact=same_interval) == self


@dataclass(slots=True)
class _Job:
    request: _Request
    resolution: Resolution = field(default_factory=Resolution)
    entry: tuple[RegistryAccess, str] | None = None
    running: asyncio.Task[Resolution] | None = None
    release: ReleaseStatus | None = None
    """The current release: with `spec.verify` it too is checked by the keys as they are now."""
    proofs: dict[str, tuple[str, Proof]] = field(default_factory=dict)


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
        self._archives = Archives()
        self._jobs: dict[Key, _Job] = {}
        self._queue: KeyedQueue[Key] = KeyedQueue()
        self._backoff: Backoff[Key] = Backoff(timing.retry_first, timing.retry_most)

    def resolution(self, key: Key, rollout: FirmwareRollout) -> Resolution:
        """What is known of the artifact; the lookup is under way where nothing is."""
        request = _Request.of(rollout)
        job = self._jobs.get(key)
        if job is not None and job.request.asks_the_same(request):
            job.release = rollout.status.release
            if job.request != request:
                job.request = request
                self._queue.put(key, self._until_next(request))
            return job.resolution
        if job is not None and job.running is not None:
            job.running.cancel()
        entry = job.entry if job is not None else None
        nothing = Resolution(doubtful=request.verify is not None)
        self._jobs[key] = _Job(request, nothing, entry, release=rollout.status.release)
        self._backoff.reset(key)
        self._queue.put(key)
        return nothing

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
            if job.request.verify is None:
                return
            # Whether what was verified still is, is not known.
            resolution = replace(_unanswered(job, None), doubtful=True)
        else:
            resolution = running.result()
        changed = resolution != job.resolution
        job.resolution = resolution
        if changed:
            self._news(key)

    async def _resolve(self, key: Key, job: _Job) -> Resolution:
        before = verifier = None
        try:
            verifier = await self._verifier(key, job)
            before = job.resolution.found
            if before is not None and verifier is not None:
                # By keys that are no more it is not verified.
                proof = verifier.proof(before.digest)
                before = replace(before, proof=proof) if proof is not None else None
            async with asyncio.timeout(self._timing.lookup_most):
                looked = await self._find(key, job, before, verifier)
        except SecretProblem as problem:
            failure = Failure(problem.reason, str(problem), lasting=True)
        except Unavailable as error:
            failure = Failure(Reason.SECRET_UNAVAILABLE, str(error))
        except TimeoutError:
            failure = Failure(
                Reason.REGISTRY_UNREACHABLE,
                f"{job.request.artifact.repository} was not looked up within "
                f"{self._timing.lookup_most:.0f} s.",
            )
        except OciError as error:
            failure = Failure(registry_reason(error.reason), str(error), not error.retryable)
            wait = error.retry_after or 0.0 if isinstance(error, RateLimited) else 0.0
            self._retry(key, job, failure, wait)
            return _unanswered(job, verifier, before, failure)
        else:
            return self._found(key, job, before, looked)
        self._retry(key, job, failure)
        return _unanswered(job, verifier, before, failure)

    def _found(self, key: Key, job: _Job, before: Found | None, looked: Resolution) -> Resolution:
        wrong = looked.unverified or looked.current
        if wrong is not None:
            self._retry(key, job, wrong)
        else:
            metrics.RESOLUTIONS.inc()
            self._backoff.reset(key)
            self._queue.put(key, self._until_next(job.request))
        new = looked.found
        if before is not None and new is not None and replace(new, at=before.at) == before:
            return replace(looked, found=before)
        return looked

    def _retry(self, key: Key, job: _Job, why: Failure | Unverified, wait: float = 0.0) -> None:
        metrics.REGISTRY_ERRORS.labels(why.reason).inc()
        event = "artifact not resolved" if isinstance(why, Failure) else "release not verified"
        log.warning(event, object=str(key), reason=why.reason, why=why.message)
        delay = min(self._backoff.next(key), self._until_next(job.request))
        self._queue.put(key, max(delay, wait))

    async def _verifier(self, key: Key, job: _Job) -> Verifier | None:
        if (spec := job.request.verify) is None:
            return None
        try:
            return Verifier(await signers(self._secrets, key.namespace, spec), job.proofs)
        except SecretProblem as problem:
            return Verifier(problem, job.proofs)

    async def _find(
        self, key: Key, job: _Job, before: Found | None, verifier: Verifier | None
    ) -> Resolution:
        artifact = job.request.artifact
        repository = Repository.parse(artifact.repository)
        access = await registry_access(self._secrets, key.namespace, artifact, repository)
        entry = await self._entry(job, access)
        async with self._sources.open(repository, access, insecure=artifact.insecure) as source:
            result: Found | Unverified | None = None
            if artifact.tag is not None and before is not None:
                digest = await source.digest(repository, artifact.tag)
                if digest == before.digest:
                    result = _with_entry(before, entry)
            if result is None:
                result = await self._look(source, repository, job, verifier, entry)
            current = None
            if verifier is not None:
                current = await _check(source, repository, job, verifier, result.digest)
                kept = {result.digest, job.release.digest if job.release is not None else ""}
                for gone in job.proofs.keys() - kept:
                    del job.proofs[gone]
        if isinstance(result, Unverified):
            return Resolution(unverified=result, current=current)
        return Resolution(result, current=current)

    async def _look(
        self,
        source: Source,
        repository: Repository,
        job: _Job,
        verifier: Verifier | None,
        entry: str | None,
    ) -> Found | Unverified:
        """What the artifact is now; nothing of its content is read before it is verified."""
        artifact = job.request.artifact
        resolved = await _resolved(
            source,
            repository,
            job.request,
            tag=artifact.tag,
            semver=artifact.semver,
            digest=artifact.digest,
        )
        proof = None
        if verifier is not None:
            try:
                proof = await verifier.verify(source, resolved)
            except NotVerified as problem:
                return Unverified(resolved.version, resolved.digest, problem.reason, str(problem))
        title = artifact.layer_selector.title if artifact.layer_selector is not None else ""
        firmware = await self._archives.firmware(source, resolved, title)
        return Found(
            version=resolved.version,
            digest=resolved.digest,
            artifact=firmware.model_copy(
                update={"insecure": artifact.insecure, "credentials": entry}
            ),
            at=datetime.now(UTC).replace(microsecond=0),
            by_range=artifact.semver is not None,
            models=resolved.models,
            min_version=resolved.min_version,
            proof=proof,
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


def _unanswered(
    job: _Job,
    verifier: Verifier | None,
    found: Found | None = None,
    failure: Failure | None = None,
) -> Resolution:
    """What is known while nothing new is; a registry that is silent makes nothing trusted again.

    `verifier` None: the keys are not known either.
    """
    release = job.release
    if job.request.verify is None or release is None:
        return Resolution(found, failure)
    if verifier is not None and verifier.proof(release.digest) is not None:
        return Resolution(found, failure)
    doubtful = verifier is not None or job.resolution.doubtful
    return Resolution(found, failure, None, _wrong_before(job, release.digest), doubtful)


def _wrong_before(job: _Job, digest: str) -> Unverified | None:
    wrong = (job.resolution.unverified, job.resolution.current)
    return next((known for known in wrong if known is not None and known.digest == digest), None)


def _with_entry(found: Found, entry: str | None) -> Found:
    return replace(found, artifact=found.artifact.model_copy(update={"credentials": entry}))


async def _resolved(
    source: Source,
    repository: Repository,
    request: _Request,
    *,
    tag: str | None = None,
    semver: str | None = None,
    digest: str | None = None,
) -> Resolved:
    selector = request.artifact.layer_selector
    return await resolve(
        source,
        repository,
        tag=tag,
        semver=semver,
        digest=digest,
        version=request.version,
        media_type=selector.media_type if selector is not None else "",
        title=selector.title if selector is not None else "",
        models=request.models,
    )


async def _check(
    source: Source, repository: Repository, job: _Job, verifier: Verifier, named: str
) -> Unverified | None:
    """Why the current release does not verify by the keys as they are now, where it is not `named`.

    What the registry does not hold any more, or not now, says nothing about it: it stays what it
    was, unless other keys may sign since.
    """
    release = job.release
    if release is None or release.digest == named or verifier.proof(release.digest) is not None:
        return None
    if release.artifact is None or release.artifact.repository != str(repository):
        return None
    try:
        resolved = await _resolved(source, repository, job.request, digest=release.digest)
        await verifier.verify(source, resolved)
    except NotVerified as problem:
        return Unverified(release.version, release.digest, problem.reason, str(problem))
    except OciError as error:
        log.warning("current release not checked", digest=release.digest, why=str(error))
        if (wrong := _wrong_before(job, release.digest)) is not None:
            return wrong
        if release.digest in job.proofs:
            return Unverified(
                release.version,
                release.digest,
                registry_reason(error.reason),
                "The keys changed since it was verified, and by those there are now it cannot be "
                f"checked: {error}",
            )
    return None
