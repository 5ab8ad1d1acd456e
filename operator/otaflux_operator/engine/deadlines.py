"""Deadlines of rings: time that passes only while the run goes on and a window is open."""

from datetime import datetime, timedelta

from otaflux_operator.engine.drafts import Draft, Standing
from otaflux_operator.engine.support import windows
from otaflux_operator.resources import FirmwareRollout, Ring, RingPhase, RingStatus
from otaflux_policy.contract import State
from otaflux_policy.windows import after_open_time, open_time

ENDED = frozenset({RingPhase.COMPLETE, RingPhase.SKIPPED})


def keep_pauses(draft: Draft, rollout: FirmwareRollout, now: datetime) -> None:
    """Notes since when the run is paused, and afterwards for how long each open ring was.

    A pause that began in the future began now: the clock jumped back.
    """
    paused = rollout.spec.state is State.PAUSED and draft.standing is Standing.LIVE
    since = draft.paused_at
    if paused and draft.release is not None:
        draft.paused_at = min(since or now, now)
    elif since is not None:
        draft.paused_at = None
        for name, status in draft.rings.items():
            if status.opened_at is not None and status.phase not in ENDED:
                stood = open_time(windows(rollout.spec) or (), since, now)
                seconds = status.paused_seconds + int(stood.total_seconds())
                draft.rings[name] = status.model_copy(update={"paused_seconds": seconds})


def deadline(rollout: FirmwareRollout, ring: Ring, status: RingStatus) -> datetime | None:
    """When the ring has to be complete, if its run is not paused again until then.

    None: it has all the time, has ended, or is not open yet.
    """
    if ring.deadline is None or status.opened_at is None or status.phase in ENDED:
        return None
    span = timedelta(seconds=ring.deadline.seconds + status.paused_seconds)
    return after_open_time(windows(rollout.spec) or (), status.opened_at, span)


def overdue(draft: Draft, rollout: FirmwareRollout, now: datetime) -> tuple[Ring, ...]:
    """Open rings of the run that are past their deadline, and whose success does not hold."""
    if draft.standing is not Standing.LIVE or draft.release is None:
        return ()
    time = draft.paused_at or now
    late = []
    for ring in rollout.spec.rings:
        status = draft.rings.get(ring.name)
        if status is None or status.satisfied_at is not None:
            continue
        ends = deadline(rollout, ring, status)
        if ends is not None and ends <= time:
            late.append(ring)
    return tuple(late)
