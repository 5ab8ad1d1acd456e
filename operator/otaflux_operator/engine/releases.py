"""Which release is the current one: candidates, promotion, the way back, the end of a run."""

from datetime import datetime

from otaflux_operator.engine.drafts import ENDED_BADLY, Draft, Objection, Standing
from otaflux_operator.engine.observations import Found, Observation
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    FirmwareRollout,
    HistoryEntry,
    Phase,
    ReleaseStatus,
    RingPhase,
    RingStatus,
)
from otaflux_operator.resources.statuses import ReleaseArtifact
from otaflux_policy import versions
from otaflux_policy.contract import Artifact, Policy, Release, State


def inherit(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """Takes over what the published policy is ahead of the status.

    The policy is written first: whoever stopped between the two writes left it ahead, as does a
    status write that met a conflict, after which the spec may say something else. Of a
    policy of an earlier object of the same name only the number of its run counts.
    """
    published = observation.published
    if published is None:
        return
    if not observation.mine:
        draft.run = max(draft.run, published.run)
        return
    if rollout.status.observed_generation == 0:
        _restore(draft, published, now)
    elif published.run > draft.run and published.target is not None:
        digest = published.target.digest
        if published.rolling_back and draft.release and draft.release.digest == digest:
            _take_back(draft, published.run, now)
        elif (candidate := _promoted(draft, observation, digest)) is not None:
            draft.candidate = candidate
            _promote(draft, published.run, now)
    same_run = published.run == draft.run and _has_target(published, draft.release)
    # Where it is ahead for another reason (a status from a backup), no run is numbered twice.
    draft.run = max(draft.run, published.run)
    if published.rolling_back or not same_run:
        return
    stable, target = published.stable, published.target
    completed = stable is not None and target is not None and stable.digest == target.digest
    if completed and draft.standing is Standing.LIVE:
        draft.complete(now)
    if published.state is State.ABORTED:
        draft.abort(now)
    for ring in published.rings:
        known = draft.rings.get(ring.name, RingStatus(name=ring.name))
        if ring.open and known.opened_at is None:
            draft.rings[ring.name] = known.model_copy(
                update={"phase": RingPhase.OPEN, "opened_at": now}
            )


def _promoted(draft: Draft, observation: Observation, digest: str) -> ReleaseStatus | None:
    """What has become the release with this manifest digest, of what is known here."""
    found = observation.resolution.found
    if draft.candidate is not None and draft.candidate.digest == digest:
        return draft.candidate
    return _candidate(draft, found) if found is not None and found.digest == digest else None


def _has_target(published: Policy, release: ReleaseStatus | None) -> bool:
    target = published.target
    return target is not None and release is not None and target.digest == release.digest


def end_aborted(draft: Draft, rollout: FirmwareRollout, now: datetime) -> None:
    """`state: Aborted` ends the run; one that completed has ended before."""
    if rollout.spec.state is not State.ABORTED or draft.release is None:
        return
    draft.abort(now)


def choose_candidate(draft: Draft, rollout: FirmwareRollout, observation: Observation) -> None:
    """What the artifact resolved to becomes the candidate, unless it is released or refused."""
    found = observation.resolution.found
    retry = rollout.spec.retry_token != draft.handled_token
    if found is None or draft.unsupported is not None:
        return
    draft.handled_token = rollout.spec.retry_token
    if _is_released(draft, found):
        assert draft.release is not None
        failed = draft.standing in ENDED_BADLY
        admitted = draft.candidate is not None and draft.candidate.digest == found.digest
        if failed and (retry or admitted):
            draft.candidate = _candidate(draft, found)
        else:
            draft.candidate = None
            if failed and draft.standing is not Standing.ABORTED:
                draft.refused = _failed_before(found)
        if draft.release.version != found.version:
            _rename(draft, found)
        return
    if draft.stable is not None and found.digest == draft.stable.digest:
        draft.candidate = None
        return
    draft.refused = _objection(draft, found, retry)
    kept = found.by_range and is_older(found, draft.release)
    draft.candidate = None if draft.refused or kept else _candidate(draft, found)


def is_older(found: Found, release: ReleaseStatus | None) -> bool:
    """Whether what was found is known to be older than a release."""
    return release is not None and versions.compare(found.version, release.version) == -1


def return_to_stable(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """A tag or digest that is the stable release again takes back what came after it."""
    found = observation.resolution.found
    if (
        found is None
        or found.by_range
        or draft.stable is None
        or draft.release is None
        or found.digest != draft.stable.digest
        or found.digest == draft.release.digest
        or draft.taken_back
        or draft.unsupported is not None
        or rollout.spec.state is not State.ACTIVE
    ):
        return
    _take_back(draft, draft.next_run(observation), now)


def promote(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """The candidate becomes the release once the servers stored it, and the stable one."""
    active = rollout.spec.state is State.ACTIVE and draft.unsupported is None
    if active and is_stored(draft, observation, now):
        _promote(draft, draft.next_run(observation), now)


def is_stored(draft: Draft, observation: Observation, now: datetime) -> bool:
    """Whether the candidate is what the spec asks for, and servers confirm to have all of it."""
    found, published = observation.resolution.found, observation.published
    said = observation.answer.fresh(now)
    if draft.candidate is None or found is None or published is None or said is None:
        return False
    if published.candidate is None or not observation.mine:
        return False
    return (
        draft.candidate.digest == published.candidate.digest
        and found.artifact.digest == published.candidate.firmware.digest
        and said.revision == published.revision
        and said.stored(published.candidate.firmware.digest)
        and (published.stable is None or said.stored(published.stable.firmware.digest))
        and (draft.stable.digest if draft.stable else None)
        == (published.stable.digest if published.stable else None)
    )


def _is_released(draft: Draft, found: Found) -> bool:
    return draft.release is not None and draft.release.digest == found.digest


def _candidate(draft: Draft, found: Found) -> ReleaseStatus:
    known = draft.candidate
    same = known is not None and known.digest == found.digest
    return ReleaseStatus(
        version=found.version,
        digest=found.digest,
        size=found.artifact.size,
        resolved_at=known.resolved_at if known is not None and same else found.at,
        artifact=_artifact(found.artifact),
    )


def _objection(draft: Draft, found: Found, retry: bool) -> Objection | None:
    admitted = draft.candidate is not None and draft.candidate.digest == found.digest
    if taken := _version_taken(draft, found):
        return taken
    if draft.failed_before(found.digest) and not (retry or admitted):
        return _failed_before(found)
    if not found.by_range and is_older(found, draft.stable):
        assert draft.stable is not None
        return Objection(
            Reason.DOWNGRADE_FORBIDDEN,
            f"{found.version} is older than {draft.stable.version}, which is released: going "
            "back to it needs `downgrade: Allow`.",
        )
    return None


def _version_taken(draft: Draft, found: Found) -> Objection | None:
    released: list[ReleaseStatus | HistoryEntry] = [*draft.history]
    released += [release for release in (draft.release, draft.stable) if release is not None]
    for known in released:
        if versions.same(known.version, found.version) and known.digest != found.digest:
            return Objection(
                Reason.VERSION_DIGEST_CHANGED,
                f"{found.version} was released as {known.digest} and is now {found.digest}: push "
                "the new content under a version of its own.",
            )
    return None


def _rename(draft: Draft, found: Found) -> None:
    """The same content bears another version now (a tag of its own, or `spec.version`)."""
    draft.refused = draft.refused or _version_taken(draft, found)
    if draft.refused is not None:
        return
    renamed = {"version": found.version}
    if draft.release is not None:
        draft.release = draft.release.model_copy(update=renamed)
    if draft.stable is not None and draft.stable.digest == found.digest:
        draft.stable = draft.stable.model_copy(update=renamed)


def _failed_before(found: Found) -> Objection:
    return Objection(
        Reason.RELEASE_FAILED_BEFORE,
        f"{found.version} ({found.digest}) was rolled back or aborted: change spec.retryToken "
        "to run it again, or release another version.",
    )


def _take_back(draft: Draft, run: int, now: datetime) -> None:
    assert draft.stable is not None
    if draft.standing is Standing.LIVE:
        draft.record(Phase.ROLLED_BACK, f"the artifact went back to {draft.stable.version}", now)
    draft.run, draft.standing = run, Standing.ROLLING_BACK
    draft.candidate, draft.rings = None, {}


def _promote(draft: Draft, run: int, now: datetime) -> None:
    candidate = draft.candidate
    assert candidate is not None
    if draft.standing is Standing.LIVE:
        draft.record(Phase.SUPERSEDED, f"{candidate.version} took its place", now)
    draft.run, draft.standing = run, Standing.LIVE
    draft.release = candidate.model_copy(update={"started_at": now, "finished_at": None})
    draft.candidate, draft.rings = None, {}


def _restore(draft: Draft, published: Policy, now: datetime) -> None:
    """The status was lost, the policy is this very object's: go on from there."""
    draft.run = published.run
    draft.stable, draft.candidate = _of(published.stable), _of(published.candidate)
    draft.release = _of(published.target)
    if draft.release is None:
        return
    if published.rolling_back:
        draft.standing = Standing.ROLLING_BACK
    elif draft.stable is not None and draft.stable.digest == draft.release.digest:
        draft.standing = Standing.COMPLETED
    elif published.state is State.ABORTED:
        draft.standing = Standing.ABORTED
    ended = None if draft.standing is Standing.LIVE else now
    draft.release = draft.release.model_copy(update={"started_at": now, "finished_at": ended})


def _of(release: Release | None) -> ReleaseStatus | None:
    if release is None:
        return None
    return ReleaseStatus(
        version=release.version,
        digest=release.digest,
        size=release.firmware.size,
        artifact=_artifact(release.firmware),
    )


def _artifact(artifact: Artifact) -> ReleaseArtifact:
    return ReleaseArtifact(
        digest=artifact.digest,
        size=artifact.size,
        media_type=artifact.media_type,
        repository=artifact.repository,
        insecure=artifact.insecure,
    )
