"""The part of a status that the steps of `advance` change, before it is a status again."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from otaflux_operator.engine.judgements import Judgement
from otaflux_operator.engine.observations import Found, Observation, Proof
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    FirmwareRollout,
    HistoryEntry,
    Phase,
    ReleaseStatus,
    RingStatus,
    RollbackStatus,
    RolloutStatus,
    TripStatus,
)
from otaflux_operator.resources.statuses import (
    HISTORY_LENGTH,
    ReleaseArchive,
    ReleaseArtifact,
    ReleaseCompatibility,
    ReleaseVerification,
)
from otaflux_policy.contract import Archive, Artifact, Release


class Standing(StrEnum):
    """Where the current run stands, whatever else holds the rollout up."""

    LIVE = "Live"
    COMPLETED = "Completed"
    ABORTED = "Aborted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"


ENDED_BADLY = frozenset({Standing.ABORTED, Standing.ROLLING_BACK, Standing.ROLLED_BACK})
TAKEN_BACK = frozenset({Standing.ROLLING_BACK, Standing.ROLLED_BACK})
_FAILED = frozenset({Phase.ROLLED_BACK, Phase.ABORTED})
_PERSISTED = {
    Phase.ABORTED: Standing.ABORTED,
    Phase.ROLLING_BACK: Standing.ROLLING_BACK,
    Phase.ROLLED_BACK: Standing.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True)
class Objection:
    """Why what the spec asks for is not done: a person is needed."""

    reason: Reason
    message: str


@dataclass(slots=True)
class Draft:
    """What is decided so far. `release` is the run's; while rolling back, the one taken back.

    `unsupported` objects to the spec, `refused` to the artifact that it names, `unreachable` to
    the way back: what spec.rollback names, or what came after, `untrusted` to the release, which
    does not verify by the keys as they are now. `trip` is latched for the run;
    `rollback` is the way back that the run is, or was.
    """

    run: int
    release: ReleaseStatus | None
    stable: ReleaseStatus | None
    candidate: ReleaseStatus | None
    rings: dict[str, RingStatus]
    history: list[HistoryEntry]
    handled_token: str
    standing: Standing
    unsupported: Objection | None = None
    refused: Objection | None = None
    unreachable: Objection | None = None
    untrusted: Objection | None = None
    trip: TripStatus | None = None
    rollback: RollbackStatus | None = None
    paused_at: datetime | None = None
    judgements: dict[str, Judgement] = field(default_factory=dict)

    @classmethod
    def of(cls, rollout: FirmwareRollout, now: datetime) -> "Draft":
        """The draft that changes nothing, but that what lies in the future began `now`.

        The clock was set back then, and nothing may wait for it to come round again.
        """
        status = rollout.status
        trip, rollback = status.trip, status.rollback
        if trip is not None:
            trip = trip.model_copy(update={"at": min(trip.at, now)})
        if rollback is not None:
            started_at = min(rollback.started_at, now)
            rollback = rollback.model_copy(update={"started_at": started_at})
        fresh = status.observed_generation == 0
        return cls(
            run=status.run,
            release=status.release,
            stable=status.stable_release,
            candidate=status.candidate,
            rings={ring.name: ring for ring in status.rings},
            history=list(status.history),
            handled_token=rollout.spec.retry_token if fresh else status.handled_retry_token,
            standing=_standing(status),
            trip=trip,
            rollback=rollback,
            paused_at=status.paused_at,
        )

    @property
    def taken_back(self) -> bool:
        """Whether devices get the stable release instead of the run's."""
        return self.standing in TAKEN_BACK

    def next_run(self, observation: Observation) -> int:
        """A number above every run that was ever known for the name."""
        # That of the published policy is in ours by now (`inheriting`).
        said = observation.answer.said
        return 1 + max(self.run, said.run if said is not None else 0)

    def record(self, result: Phase, message: str, now: datetime, run: int | None = None) -> None:
        """Notes in the history that the run of the current release ends thus.

        `run`: it is told of that one instead, of which nothing but its end is known.
        """
        release = self.release
        if release is None:
            return
        entry = HistoryEntry(
            run=self.run if run is None else run,
            version=release.version,
            digest=release.digest,
            result=result,
            started_at=release.started_at if run is None else now,
            finished_at=now,
            message=message,
            artifact=release.artifact,
            compatibility=release.compatibility,
        )
        self.history = [entry, *self.history]
        self.release = release.model_copy(update={"finished_at": now})

    def complete(self, now: datetime) -> None:
        """The run ends: every ring completed."""
        self.record(Phase.COMPLETED, "every ring completed", now)
        self.standing, self.stable = Standing.COMPLETED, self.release

    def abort(self, now: datetime) -> None:
        """The run ends, unless it completed before."""
        if self.standing is Standing.LIVE:
            self.record(Phase.ABORTED, "spec.state was Aborted", now)
        if self.standing is not Standing.COMPLETED:
            self.standing = Standing.ABORTED

    def kept_history(self, limit: int) -> tuple[HistoryEntry, ...]:
        """The latest `limit` entries, and beyond them those by which `failed_before` is told."""
        kept: list[HistoryEntry] = []
        seen: set[str] = set()
        for place, entry in enumerate(self.history):
            failed = entry.result in _FAILED and entry.digest not in seen
            if place < limit or failed:
                kept.append(entry)
            seen.add(entry.digest)
        return tuple(kept[:HISTORY_LENGTH])

    def failed_before(self, digest: str) -> bool:
        """Whether the latest run of this content was rolled back or aborted."""
        latest = next((entry for entry in self.history if entry.digest == digest), None)
        return latest is not None and latest.result in _FAILED


def names(reference: str, known: ReleaseStatus | HistoryEntry | Found) -> bool:
    """Whether a version or manifest digest that a person wrote is that of the release."""
    return reference in (known.version, known.digest)


def status_of(release: Release) -> ReleaseStatus:
    """A release of a policy as a status has it."""
    return ReleaseStatus(
        version=release.version,
        digest=release.digest,
        size=release.firmware.size,
        artifact=status_artifact(release.firmware),
        compatibility=release_compatibility(release.firmware.models, release.min_version),
    )


def release_compatibility(
    models: tuple[str, ...], min_version: str | None
) -> ReleaseCompatibility | None:
    """As a status has it; None where it says nothing."""
    if not models and min_version is None:
        return None
    return ReleaseCompatibility(models=",".join(models), min_version=min_version)


def release_verification(proof: Proof | None) -> ReleaseVerification | None:
    """As a status has it."""
    return None if proof is None else ReleaseVerification(key=proof.key, at=proof.at)


def status_artifact(artifact: Artifact) -> ReleaseArtifact:
    """An artifact of a policy as a status has it."""
    return ReleaseArtifact(
        digest=artifact.digest,
        size=artifact.size,
        media_type=artifact.media_type,
        repository=artifact.repository,
        insecure=artifact.insecure,
        archive=_archive(artifact.archive),
    )


def _archive(archive: Archive | None) -> ReleaseArchive | None:
    if archive is None:
        return None
    return ReleaseArchive(
        digest=archive.digest,
        size=archive.size,
        media_type=archive.media_type,
        path=archive.path,
    )


def _standing(status: RolloutStatus) -> Standing:
    release, stable = status.release, status.stable_release
    if release is None:
        return Standing.LIVE
    if stable is not None and release.digest == stable.digest and release.finished_at is not None:
        return Standing.COMPLETED
    return _PERSISTED.get(status.phase, Standing.LIVE)
