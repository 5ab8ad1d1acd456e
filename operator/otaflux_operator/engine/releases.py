"""Which release is the current one: candidates, promotion, the way back, the end of a run."""

from datetime import datetime

from otaflux_operator.engine import rollbacks, trips
from otaflux_operator.engine.drafts import (
    ENDED_BADLY,
    Draft,
    Objection,
    Standing,
    names,
    status_artifact,
    status_of,
)
from otaflux_operator.engine.observations import Found, Observation
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    FirmwareRollout,
    HistoryEntry,
    Phase,
    ReleaseStatus,
    RingPhase,
    RingStatus,
    RollbackCause,
    TripStatus,
)
from otaflux_policy import versions
from otaflux_policy.contract import Downgrade, Policy, Release, State


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
        _restore(draft, published, rollout, observation, now)
    elif published.run > draft.run and published.target is not None:
        _catch_up(draft, published, published.target, rollout, observation, now)
    if published.run == draft.run and draft.candidate is None:
        draft.candidate = _status(published.candidate)
    same_run = published.run == draft.run and _has_target(published, draft.release)
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
    if published.tripped:
        draft.trip = _trip(draft, published, observation, now)


def _catch_up(
    draft: Draft,
    published: Policy,
    target: Release,
    rollout: FirmwareRollout,
    observation: Observation,
    now: datetime,
) -> None:
    """The published policy is a run ahead: that run is the current one."""
    found = observation.resolution.found
    release, candidate = draft.release, draft.candidate
    same = release is not None and release.digest == target.digest
    if published.rolling_back and same:
        rollbacks.resume(draft, rollout, observation, published.run, now)
    elif draft.standing is Standing.COMPLETED and same and not published.rolling_back:
        draft.run, draft.handled_token = published.run, rollout.spec.retry_token
    elif not published.rolling_back and candidate is not None and candidate.digest == target.digest:
        _promote(draft, published.run, now)
    elif not published.rolling_back and found is not None and found.digest == target.digest:
        draft.candidate = _candidate(draft, found)
        _promote(draft, published.run, now)
    elif not published.rolling_back and release is not None and same:
        draft.candidate = release
        _promote(draft, published.run, now)
    else:
        # The status is older than that, as from a backup.
        if draft.standing is Standing.LIVE:
            draft.record(Phase.SUPERSEDED, f"{target.version} took its place", now)
        draft.rings, draft.trip, draft.rollback = {}, None, None
        _restore(draft, published, rollout, observation, now)


def _trip(draft: Draft, published: Policy, observation: Observation, now: datetime) -> TripStatus:
    """The trip that was published; where it was lost, as servers tell it, else without numbers.

    One that was lost is noted as of `now`.
    """
    known = draft.trip
    if known is not None and not trips.is_bare(known):
        return known
    if (again := trips.known_trip(draft, observation, now)) is not None:
        return again.model_copy(update={"at": now})
    opened = [ring.name for ring in published.rings if ring.open]
    return known or TripStatus(ring=opened[-1] if opened else "", failed=0, updated=0, at=now)


def _has_target(published: Policy, release: ReleaseStatus | None) -> bool:
    target = published.target
    return target is not None and release is not None and target.digest == release.digest


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
    found = observation.resolution.found
    if found is None or draft.unsupported is not None or rollbacks.awaits_hand(draft, rollout):
        return
    by_hand = rollbacks.asked_by_hand(draft, rollout)
    retry = rollout.spec.retry_token != draft.handled_token and not by_hand
    if _is_released(draft, found):
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
        draft, found, rollout.spec.downgrade, retry
    )
    kept = found.by_range and is_older(found, draft.release)
    draft.candidate = None if draft.refused or kept else _candidate(draft, found)


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
        draft.candidate = _candidate(draft, found)
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
        _promote(draft, draft.next_run(observation), now)
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
        and found.artifact.digest == published.candidate.firmware.digest
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
        resolved_at=(known.resolved_at if known is not None and same else None) or found.at,
        artifact=status_artifact(found.artifact),
    )


def _objection(draft: Draft, found: Found, downgrade: Downgrade, retry: bool) -> Objection | None:
    admitted = draft.candidate is not None and draft.candidate.digest == found.digest
    if taken := _version_taken(draft, found):
        return taken
    if draft.failed_before(found.digest) and not (retry or admitted):
        return _failed_before(found)
    return _going_down(draft, found, downgrade)


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


def _failed_before(found: Found) -> Objection:
    return Objection(
        Reason.RELEASE_FAILED_BEFORE,
        f"{found.version} ({found.digest}) was rolled back or aborted: change spec.retryToken "
        "to run it again, or release another version.",
    )


def _promote(draft: Draft, run: int, now: datetime) -> None:
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


def _restore(
    draft: Draft,
    published: Policy,
    rollout: FirmwareRollout,
    observation: Observation,
    now: datetime,
) -> None:
    """The status was lost, the policy is this very object's: go on from there."""
    draft.run, draft.standing = published.run, Standing.LIVE
    draft.stable, draft.candidate = _status(published.stable), _status(published.candidate)
    draft.release = _status(published.target)
    if draft.release is None:
        return
    if published.rolling_back:
        draft.standing = Standing.ROLLING_BACK
        draft.rollback = rollbacks.made_up(draft, rollout, observation, now)
    elif draft.stable is not None and draft.stable.digest == draft.release.digest:
        draft.standing = Standing.COMPLETED
    elif published.state is State.ABORTED:
        draft.standing = Standing.ABORTED
    ended = None if draft.standing is Standing.LIVE else now
    draft.release = draft.release.model_copy(update={"started_at": now, "finished_at": ended})
    _remember(draft, draft.release, published, now)


def _remember(draft: Draft, release: ReleaseStatus, published: Policy, now: datetime) -> None:
    """What ended badly is in the history again, so that it is not released unasked."""
    if draft.standing not in ENDED_BADLY or draft.failed_before(release.digest):
        return
    aborted = draft.standing is Standing.ABORTED
    runs = [known.run for known in published.rollback_from if known.digest == release.digest]
    draft.record(
        Phase.ABORTED if aborted else Phase.ROLLED_BACK,
        "known from the published policy: the status was lost",
        now,
        max(runs, default=draft.run),
    )


def _status(release: Release | None) -> ReleaseStatus | None:
    return None if release is None else status_of(release)
