"""How far an open ring is, in numbers, and what it waits for."""

from datetime import timedelta

from otaflux_operator.engine.deadlines import deadline
from otaflux_operator.engine.judgements import Finding, Judgement, needed
from otaflux_operator.engine.rings import soaks_until
from otaflux_operator.engine.situations import Situation
from otaflux_operator.resources import Ring, RingStatus
from otaflux_policy.contract import State
from otaflux_policy.counts import RingCounts


def ring_progress(
    situation: Situation, ring: Ring, status: RingStatus, judgement: Judgement
) -> str:
    """`31 of 50 updated, 1 failed (2 %), soaking, 00:40 left`: a list without a full stop."""
    counts = judgement.counts
    if counts is None:
        known = _last_known(status)
        return f"{known}its success cannot be judged now: {judgement.why}"
    if judgement.finding is Finding.NO_DEVICES:
        waits = "it has no devices, and waits for one; onEmpty: Skip would skip it"
        return "; ".join([waits, *_uncounted(counts)])
    parts = [f"{counts.succeeded} of {counts.active} updated", *_states(counts)]
    parts += _absent(situation, counts)
    if judgement.finding is Finding.TOO_FEW_DEVICES:
        parts.append(
            f"it has {_devices(counts.members)}, and waits for "
            f"{ring.success.min_devices} (success.minDevices)"
        )
    elif judgement.finding is Finding.UNMET:
        parts += _unmet(situation, ring, status, counts)
    else:
        parts.append(_soaking(situation, ring, status))
    return ", ".join(parts)


def _states(counts: RingCounts) -> list[str]:
    failed = counts.failed + counts.timed_out
    share = failed * 100 // max(1, counts.active)
    parts = []
    if failed:
        parts.append(f"{failed} failed ({share} %)")
    if counts.in_flight:
        parts.append(f"{counts.in_flight} under way")
    return parts


def _absent(situation: Situation, counts: RingCounts) -> list[str]:
    """Devices that are in the ring and do not count."""
    parts = []
    unseen = counts.members - counts.active - counts.not_requested
    if unseen > 0:
        parts.append(f"{unseen} more not seen for {situation.rollout.spec.active_within}")
    if counts.not_requested:
        parts.append(f"{counts.not_requested} more never asked for it")
    return [*parts, *_uncounted(counts)]


def _uncounted(counts: RingCounts) -> list[str]:
    """Ids that may be scanners'."""
    if not counts.uncounted:
        return []
    return [f"{counts.uncounted} more not counted yet (polled too little, named by no DeviceGroup)"]


def _unmet(situation: Situation, ring: Ring, status: RingStatus, counts: RingCounts) -> list[str]:
    parts = [f"needs {needed(ring, counts)} updated"]
    if ring.max_concurrent is not None and counts.in_flight >= ring.max_concurrent:
        parts.append(f"no more than {ring.max_concurrent} at a time")
    ends = deadline(situation.rollout, ring, status)
    if situation.rollout.spec.state is State.ACTIVE and ends is not None and ends > situation.now:
        parts.append(f"{_span(ends - situation.now)} left until its deadline")
    return parts


def _soaking(situation: Situation, ring: Ring, status: RingStatus) -> str:
    until = soaks_until(ring, status)
    if until is not None and until > situation.now:
        left = min(until - situation.now, timedelta(seconds=ring.soak.seconds))
        return f"soaking, {_span(left)} left"
    if situation.rollout.spec.state is not State.ACTIVE:
        return "complete once spec.state is Active"
    return "complete"


def _last_known(status: RingStatus) -> str:
    if status.devices is None:
        return ""
    return f"{status.updated or 0} of {_devices(status.devices)} updated when counted last, "


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _span(span: timedelta) -> str:
    """Hours and minutes, rounded up: 00:40."""
    minutes = -(-int(span.total_seconds()) // 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"
