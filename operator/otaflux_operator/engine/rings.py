"""How far the run's release may go: rings open in order, and succeed in order."""

from datetime import datetime, timedelta

from otaflux_operator.engine.deadlines import ENDED
from otaflux_operator.engine.drafts import Draft, Standing, names
from otaflux_operator.engine.judgements import Finding, Judgement, asks_for_nothing, judge
from otaflux_operator.engine.memberships import is_as_published
from otaflux_operator.engine.observations import Counted, Observation
from otaflux_operator.resources import (
    ApprovalEffect,
    FirmwareRollout,
    Gate,
    OnEmpty,
    ReleaseStatus,
    Ring,
    RingPhase,
    RingStatus,
)
from otaflux_policy.contract import State

RINGS = 20
"""Rings of which a status tells."""


def advance_rings(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """Completes open rings, opens the next ones, and ends the run when all are complete.

    Nothing moves while the spec is not `Active` or not supported, nor after a ring failed, nor
    while the release is not known to verify by the keys as they are. A ring that is renamed is
    another ring. One that was open stays in the status when it is deleted, so that it is open again
    where it comes back in the same run.
    """
    before = draft.rings
    draft.rings = {}
    live = draft.release is not None and draft.standing is Standing.LIVE
    moving = (
        live
        and rollout.spec.state is State.ACTIVE
        and draft.unsupported is None
        and draft.untrusted is None
        and not observation.resolution.doubtful
        and draft.trip is None
    )
    counted = _counted(draft, rollout, observation, now)
    reached = live
    for ring in rollout.spec.rings:
        status = before.get(ring.name, RingStatus(name=ring.name))
        if draft.standing is Standing.COMPLETED:
            status = _completed(_opened(status, now), now)
        elif draft.release is not None:
            if moving and _may_open(draft.release, rollout, ring, reached):
                status = _opened(status, now)
            if status.opened_at is None:
                status = status.model_copy(update={"phase": _closed_phase(ring, reached)})
            else:
                status = _judged(draft, ring, status, moving, counted, observation, now)
        draft.rings[ring.name] = _told(status, counted)
        reached = reached and status.phase in ENDED
    if moving and reached:
        draft.complete(now)
    if draft.standing is not Standing.COMPLETED:
        _keep_removed(draft, before)


def _keep_removed(draft: Draft, before: dict[str, RingStatus]) -> None:
    for name, status in before.items():
        if name not in draft.rings and status.opened_at is not None and len(draft.rings) < RINGS:
            draft.rings[name] = status


def approved(
    release: ReleaseStatus, rollout: FirmwareRollout, ring: str, *effects: ApprovalEffect
) -> bool:
    """Whether an approval with one of these effects names the ring and the release."""
    return any(
        approval.ring == ring and names(approval.release, release) and approval.effect in effects
        for approval in rollout.spec.approvals
    )


def soaks_until(ring: Ring, status: RingStatus) -> datetime | None:
    """When the ring has soaked, if its success condition holds until then; None: it does not."""
    if status.satisfied_at is None:
        return None
    if not ring.soak.seconds:
        return status.satisfied_at
    # A status holds whole seconds: what was cut from the beginning is not missing at the end.
    return status.satisfied_at + timedelta(seconds=ring.soak.seconds + 1)


def _counted(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> Counted:
    """The counts of the run, if their rings have the devices that the spec gives them."""
    if draft.release is None or draft.taken_back:
        return Counted(problem="nothing is released")
    counted = observation.counted(draft.run, draft.release.digest, now)
    published = observation.published
    if counted.counts is None or published is None:
        return counted
    if not is_as_published(rollout, draft.release, published):
        return Counted(problem="the rings were edited, and are counted anew")
    return counted


def _may_open(release: ReleaseStatus, rollout: FirmwareRollout, ring: Ring, reached: bool) -> bool:
    if approved(release, rollout, ring.name, ApprovalEffect.OVERRIDE):
        return True
    gated = ring.gate is Gate.APPROVAL
    return reached and (not gated or approved(release, rollout, ring.name, ApprovalEffect.GATE))


def _closed_phase(ring: Ring, reached: bool) -> RingPhase:
    waits = reached and ring.gate is Gate.APPROVAL
    return RingPhase.AWAITING_APPROVAL if waits else RingPhase.PENDING


def _judged(
    draft: Draft,
    ring: Ring,
    status: RingStatus,
    moving: bool,
    counted: Counted,
    observation: Observation,
    now: datetime,
) -> RingStatus:
    """What becomes of a ring that was opened in this run."""
    if draft.trip is not None and draft.trip.ring == ring.name:
        return status.model_copy(update={"phase": RingPhase.FAILED, "satisfied_at": None})
    if status.phase in ENDED:
        return status
    status = _rebased(status, now)
    served = _is_served_open(draft, ring, observation, now)
    if asks_for_nothing(ring):
        if moving and served:
            return _completed(status, now)
        return status.model_copy(update={"phase": RingPhase.OPEN})
    if counted.counts is not None and not served:
        counted = Counted(problem="the servers have not opened it yet")
    judgement = judge(ring, counted)
    draft.judgements[ring.name] = judgement
    return _after(judgement, ring, status, moving, now)


def _after(
    judgement: Judgement, ring: Ring, status: RingStatus, moving: bool, now: datetime
) -> RingStatus:
    since = status.satisfied_at
    if judgement.known:
        since = (since or now) if judgement.finding is Finding.MET else None
    soaking = since is not None and ring.soak.seconds > 0
    phase = RingPhase.SOAKING if soaking else RingPhase.OPEN
    status = status.model_copy(update={"phase": phase, "satisfied_at": since})
    if not moving or not judgement.known:
        return status
    if judgement.finding is Finding.NO_DEVICES and ring.on_empty is OnEmpty.SKIP:
        return status.model_copy(update={"phase": RingPhase.SKIPPED, "completed_at": now})
    soaked = soaks_until(ring, status)
    return _completed(status, now) if soaked is not None and soaked <= now else status


def _rebased(status: RingStatus, now: datetime) -> RingStatus:
    """What lies in the future begins now: the clock jumped back, and nothing may come early."""
    later = {
        field: now
        for field in ("opened_at", "satisfied_at")
        if (time := getattr(status, field)) is not None and time > now
    }
    return status.model_copy(update=later) if later else status


def _told(status: RingStatus, counted: Counted) -> RingStatus:
    """With the numbers of its devices; those known last where nothing is known now."""
    if counted.counts is None:
        return status
    known = counted.counts.ring(status.name)
    return status.model_copy(
        update={
            "devices": known.members,
            "offered": max(0, known.began),
            "updated": known.updated,
            "failed": known.failed + known.timed_out,
        }
    )


def _is_served_open(draft: Draft, ring: Ring, observation: Observation, now: datetime) -> bool:
    published = observation.published
    if published is None or observation.served(now) is None:
        return False
    return published.run == draft.run and any(
        known.name == ring.name and known.open for known in published.rings
    )


def _opened(status: RingStatus, now: datetime) -> RingStatus:
    if status.opened_at is not None:
        return status
    return status.model_copy(update={"phase": RingPhase.OPEN, "opened_at": now})


def _completed(status: RingStatus, now: datetime) -> RingStatus:
    if status.phase in ENDED:
        return status
    return status.model_copy(update={"phase": RingPhase.COMPLETE, "completed_at": now})
