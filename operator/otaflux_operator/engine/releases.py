"""Which release is the current one: candidates, promotion, the way back, the end of a run."""

from datetime import datetime

from otaflux_operator.engine import rollbacks
from otaflux_operator.engine.compatibilities import excluded
from otaflux_operator.engine.drafts import (
    ENDED_BADLY,
    Draft,
    Objection,
    Standing,
    names,
    release_compatibility,
    release_verification,
    status_artifact,
)
from otaflux_operator.engine.observations import Found, Observation
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    FirmwareRollout,
    FirmwareRolloutSpec,
    HistoryEntry,
    Phase,
    ReleaseStatus,
    RollbackCause,
)
from otaflux_policy import versions
from otaflux_policy.contract import Downgrade, State


def end_aborted(draft: Draft, rollout: FirmwareRollout, now: datetime) -> None:
    """`state: Aborted` ends the run; one that completed has ended before."""
    if rollout.spec.state is not State.ABORTED or draft.release is None:
        return
    draft.abort(now)


def choose_candidate(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """What the artifact resolved to becomes the candidate, unless it is released or refused.

    A `retryToken` counts once, and not while `spec.rollback` takes the same release back.
    """
    found, unverified = observation.resolution.found, observation.resolution.unverified
    if draft.unsupported is not None or rollbacks.awaits_hand(draft, rollout):
        return
    if unverified is not None:
        draft.refused = Objection(unverified.reason, unverified.message)
        draft.candidate = None
        return
    if found is None:
        return
    by_hand = rollbacks.asked_by_hand(draft, rollout)
    retry = rollout.spec.retry_token != draft.handled_token and not by_hand
    if _is_released(draft, found):
        _learn(draft, found)
        older = _going_down(draft, found, rollout.spec.downgrade)
        if retry and older is not None:
            # The token waits for `downgrade: Allow`.
            draft.refused, draft.candidate = older, None
            return
        failed = _failed(draft, observation, now)
        if retry and draft.standing is Standing.COMPLETED:
            _repeat(draft, rollout, observation, failed)
        elif retry and failed is not None:
            draft.handled_token = rollout.spec.retry_token
        _keep(draft, found, again=retry and failed is True, by_hand=by_hand)
        return
    if not by_hand:
        draft.handled_token = rollout.spec.retry_token
    if draft.stable is not None and found.digest == draft.stable.digest:
        draft.candidate = None
        return
    draft.refused = _taken_back_by_hand(found, rollout) or _objection(
        draft, found, rollout.spec, retry
    )
    kept = found.by_range and is_older(found, draft.release)
    draft.candidate = None if draft.refused or kept else as_candidate(draft, found)


def _failed(draft: Draft, observation: Observation, now: datetime) -> bool | None:
    """Whether the run failed, or a device did in it; None: that is not known now."""
    if draft.standing in ENDED_BADLY or draft.trip is not None:
        return True
    assert draft.release is not None
    known = observation.counted(draft.run, draft.release.digest, now).counts
    return None if known is None else known.total.failed + known.total.timed_out > 0


def _keep(draft: Draft, found: Found, *, again: bool, by_hand: bool) -> None:
    """The artifact is what is released: it is a candidate only to run it again."""
    assert draft.release is not None
    admitted = draft.candidate is not None and draft.candidate.digest == found.digest
    if draft.standing is not Standing.COMPLETED and not by_hand and (again or admitted):
        draft.candidate = as_candidate(draft, found)
    else:
        draft.candidate = None
        if draft.taken_back and (
            draft.rollback is None or draft.rollback.cause is RollbackCause.REVERT
        ):
            draft.refused = _failed_before(found)
    if draft.release.version != found.version:
        _rename(draft, found)


def _repeat(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, failed: bool | None
) -> None:
    """Devices that failed in a completed run get its release again: in a new run, every ring open.

    Where nothing failed nothing happens; the token waits for counts that tell.
    """
    if rollout.spec.state is not State.ACTIVE or failed is None:
        return
    draft.handled_token = rollout.spec.retry_token
    if failed:
        draft.run = draft.next_run(observation)


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
        or rollbacks.awaits_hand(draft, rollout)
    ):
        return
    run = draft.next_run(observation)
    rollbacks.take_back(draft, draft.stable, RollbackCause.REVERT, run, now)


def promote(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """The candidate becomes the release once the servers stored it, and the stable one."""
    active = rollout.spec.state is State.ACTIVE and draft.unsupported is None
    if active and is_stored(draft, observation, now):
        begin(draft, draft.next_run(observation), now)
        draft.handled_token = rollout.spec.retry_token


def is_stored(draft: Draft, observation: Observation, now: datetime) -> bool:
    """Whether the candidate is what the spec asks for, and servers confirm to have all of it."""
    found, published = observation.resolution.found, observation.published
    said = observation.served(now)
    if draft.candidate is None or found is None or published is None or said is None:
        return False
    if published.candidate is None:
        return False
    return (
        draft.candidate.digest == published.candidate.digest
        and draft.candidate.digest == found.digest
        and found.artifact.digest == published.candidate.firmware.digest
        and said.stored(published.candidate.firmware.digest)
        and (published.stable is None or said.stored(published.stable.firmware.digest))
        and (draft.stable.digest if draft.stable else None)
        == (published.stable.digest if published.stable else None)
    )


def _is_released(draft: Draft, found: Found) -> bool:
    return draft.release is not None and draft.release.digest == found.digest


def as_candidate(draft: Draft, found: Found) -> ReleaseStatus:
    """What was found as a status has it; since when it was known stays."""
    known = draft.candidate
    same = known is not None and known.digest == found.digest
    return ReleaseStatus(
        version=found.version,
        digest=found.digest,
        size=found.artifact.size,
        resolved_at=(known.resolved_at if known is not None and same else None) or found.at,
        artifact=status_artifact(found.artifact),
        compatibility=release_compatibility(found.models, found.min_version),
        verification=release_verification(found.proof),
    )


def _objection(
    draft: Draft, found: Found, spec: FirmwareRolloutSpec, retry: bool
) -> Objection | None:
    admitted = draft.candidate is not None and draft.candidate.digest == found.digest
    if taken := _version_taken(draft, found):
        return taken
    if draft.failed_before(found.digest) and not (retry or admitted):
        return _failed_before(found)
    return excluded(spec, found) or _going_down(draft, found, spec.downgrade)


def _going_down(draft: Draft, found: Found, downgrade: Downgrade) -> Objection | None:
    if downgrade is Downgrade.ALLOW or found.by_range or draft.stable is None:
        return None
    if not is_older(found, draft.stable):
        return None
    return Objection(
        Reason.DOWNGRADE_FORBIDDEN,
        f"{found.version} is older than {draft.stable.version}, which is released: going "
        "back to it needs `downgrade: Allow`.",
    )


def _taken_back_by_hand(found: Found, rollout: FirmwareRollout) -> Objection | None:
    """What `spec.rollback` takes back is not released in the first place."""
    hand = rollout.spec.rollback
    if hand is None or not names(hand.from_, found):
        return None
    return Objection(
        Reason.ROLLED_BACK,
        f"spec.rollback takes {found.version} back: remove it to release {found.version}.",
    )


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


def _learn(draft: Draft, found: Found) -> None:
    """What the status does not know of the release: it was lost, or keys changed since."""
    release, proof = draft.release, found.proof
    assert release is not None
    learned: dict[str, object] = {
        "compatibility": release_compatibility(found.models, found.min_version)
    }
    known = release.verification
    if proof is not None and (known is None or known.key != proof.key):
        learned["verification"] = release_verification(proof)
    draft.release = release.model_copy(update=learned)
    if draft.stable is not None and draft.stable.digest == found.digest:
        draft.stable = draft.stable.model_copy(update=learned)


def _failed_before(found: Found) -> Objection:
    return Objection(
        Reason.RELEASE_FAILED_BEFORE,
        f"{found.version} ({found.digest}) was rolled back or aborted: change spec.retryToken "
        "to run it again, or release another version.",
    )


def begin(draft: Draft, run: int, now: datetime) -> None:
    """The candidate becomes the release, in a run of its own."""
    candidate, release = draft.candidate, draft.release
    assert candidate is not None
    if draft.standing is Standing.LIVE:
        again = release is not None and release.digest == candidate.digest
        message = "run again (spec.retryToken)" if again else f"{candidate.version} took its place"
        draft.record(Phase.SUPERSEDED, message, now)
    draft.run, draft.standing = run, Standing.LIVE
    draft.release = candidate.model_copy(update={"started_at": now, "finished_at": None})
    draft.candidate, draft.rings, draft.trip, draft.rollback = None, {}, None, None
    # What spec.rollback was objected for was about the release before.
    draft.unreachable = None
