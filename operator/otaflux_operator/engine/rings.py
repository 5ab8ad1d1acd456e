"""How far the run's release may go: rings open in order, and complete in order."""

from datetime import datetime

from otaflux_operator.engine.drafts import Draft, Standing
from otaflux_operator.engine.observations import Observation
from otaflux_operator.resources import (
    ApprovalEffect,
    FirmwareRollout,
    Gate,
    ReleaseStatus,
    Ring,
    RingPhase,
    RingStatus,
)
from otaflux_policy.contract import State

ENDED = frozenset({RingPhase.COMPLETE, RingPhase.SKIPPED})


def advance_rings(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """Completes open rings, opens the next ones, and ends the run when all are complete.

    Nothing moves while the spec is not `Active` or not supported. A ring that is renamed is
    another ring.
    """
    before = draft.rings
    draft.rings = {}
    moving = (
        draft.release is not None
        and draft.standing is Standing.LIVE
        and rollout.spec.state is State.ACTIVE
        and draft.unsupported is None
    )
    reached = draft.release is not None and draft.standing is Standing.LIVE
    for ring in rollout.spec.rings:
        status = before.get(ring.name, RingStatus(name=ring.name))
        if draft.standing is Standing.COMPLETED:
            status = _completed(_opened(status, now), now)
        elif draft.release is not None:
            if moving and _may_open(draft.release, rollout, ring, reached):
                status = _opened(status, now)
            if status.opened_at is None:
                status = status.model_copy(update={"phase": _closed_phase(ring, reached)})
            elif status.phase not in ENDED:
                status = _judged(draft, ring, status, moving, observation, now)
        draft.rings[ring.name] = status
        reached = reached and status.phase in ENDED
    if moving and reached:
        draft.complete(now)


def approved(
    release: ReleaseStatus, rollout: FirmwareRollout, ring: str, *effects: ApprovalEffect
) -> bool:
    """Whether an approval with one of these effects names the ring and the release."""
    return any(
        approval.ring == ring
        and approval.release in (release.version, release.digest)
        and approval.effect in effects
        for approval in rollout.spec.approvals
    )


def completes_when_served(ring: Ring) -> bool:
    """Whether the ring asks for no evidence: it is complete once its policy is served."""
    success = ring.success
    return success.min_updated_percent == 0 and success.min_devices == 0 and not ring.soak.seconds


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
    observation: Observation,
    now: datetime,
) -> RingStatus:
    if not completes_when_served(ring):
        draft.inconclusive.add(ring.name)
    elif moving and _is_served_open(draft, ring, observation, now):
        return _completed(status, now)
    return status.model_copy(update={"phase": RingPhase.OPEN})


def _is_served_open(draft: Draft, ring: Ring, observation: Observation, now: datetime) -> bool:
    published, said = observation.published, observation.answer.fresh(now)
    if published is None or said is None or not observation.mine:
        return False
    return (
        published.run == draft.run
        and said.revision == published.revision
        and any(known.name == ring.name and known.open for known in published.rings)
    )


def _opened(status: RingStatus, now: datetime) -> RingStatus:
    if status.opened_at is not None:
        return status
    return status.model_copy(update={"phase": RingPhase.OPEN, "opened_at": now})


def _completed(status: RingStatus, now: datetime) -> RingStatus:
    if status.phase in ENDED:
        return status
    return status.model_copy(update={"phase": RingPhase.COMPLETE, "completed_at": now})
