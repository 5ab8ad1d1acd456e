"""What the published policy is ahead of the status; all of it where the status was lost."""

from datetime import datetime

from otaflux_operator.engine import rollbacks, trips
from otaflux_operator.engine.drafts import ENDED_BADLY, Draft, Standing, status_of
from otaflux_operator.engine.observations import Observation
from otaflux_operator.engine.releases import as_candidate, begin
from otaflux_operator.resources import (
    FirmwareRollout,
    Phase,
    ReleaseStatus,
    RingPhase,
    RingStatus,
    TripStatus,
)
from otaflux_policy.contract import Policy, Release, State


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
        begin(draft, published.run, now)
    elif not published.rolling_back and found is not None and found.digest == target.digest:
        draft.candidate = as_candidate(draft, found)
        begin(draft, published.run, now)
    elif not published.rolling_back and release is not None and same:
        draft.candidate = release
        begin(draft, published.run, now)
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
