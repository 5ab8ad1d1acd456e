"""The way back to a release: after a ring failed, by a revert of the artifact, or by hand."""

from datetime import datetime, timedelta

from otaflux_operator.engine.drafts import Draft, Objection, Standing, names, status_of
from otaflux_operator.engine.observations import FRESH, Observation
from otaflux_operator.engine.trips import acts_by_rollback, heard_of_trip, is_bare
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    FirmwareRollout,
    HistoryEntry,
    Phase,
    ReleaseStatus,
    Rollback,
    RollbackCause,
    RollbackStatus,
    TripStatus,
)
from otaflux_policy.contract import State
from otaflux_policy.counts import RolloutCounts


def by_failure(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """A ring failed whose action is Rollback: devices that have the release get the stable one.

    The trip is published and in the status before, so that whoever stops between two writes still
    knows of it: at the earliest in the second after it, as what is in the status is no older.
    Without a release to go back to that is all: the trip stops the offers.
    """
    trip, published = draft.trip, observation.published
    if trip is None or not acts_by_rollback(trip, rollout):
        return
    if (
        draft.standing is not Standing.LIVE
        or not has_way_back(draft)
        or not _may_act(draft, rollout)
        or published is None
        or not observation.mine
        or not published.tripped
        or published.run != draft.run
        or now <= trip.at
        or _may_be_told_of(trip, observation, now)
    ):
        return
    assert draft.stable is not None
    take_back(draft, draft.stable, RollbackCause.FAILURE, draft.next_run(observation), now)


def by_hand(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> None:
    """`spec.rollback`, while its `from` is the current release: back to `to` once it is stored.

    Until then `to` is the policy's candidate, which servers fetch; it is never promoted. What
    cannot be gone back to is said by `draft.unreachable`.
    """
    hand = rollout.spec.rollback
    if hand is None or not asked_by_hand(draft, rollout):
        return
    to = _target(draft, hand)
    if to is None:
        draft.unreachable = _unknown(draft, hand.to)
        return
    if _is_taken_back_to(draft, to) or not _may_act(draft, rollout):
        return
    draft.candidate = None
    if draft.stable is None or draft.stable.digest != to.digest:
        draft.candidate = to
        if not _is_stored(to, observation, now):
            return
    take_back(draft, to, RollbackCause.HAND, draft.next_run(observation), now)


def asked_by_hand(draft: Draft, rollout: FirmwareRollout) -> bool:
    """Whether `spec.rollback` is about the current release."""
    hand = rollout.spec.rollback
    return hand is not None and draft.release is not None and names(hand.from_, draft.release)


def awaits_hand(draft: Draft, rollout: FirmwareRollout) -> bool:
    """Whether `spec.rollback` is to be done, before anything else is done with the release."""
    hand = rollout.spec.rollback
    if hand is None or not asked_by_hand(draft, rollout):
        return False
    to = _target(draft, hand)
    return to is not None and not _is_taken_back_to(draft, to)


def take_back(
    draft: Draft, to: ReleaseStatus, cause: RollbackCause, run: int, now: datetime
) -> None:
    """A new run begins, in which devices that have the current release get `to` instead."""
    release = draft.release
    assert release is not None
    if draft.standing in (Standing.LIVE, Standing.COMPLETED):
        # That the release completed stays told of its own run.
        own = run if draft.standing is Standing.COMPLETED else None
        draft.record(Phase.ROLLED_BACK, _why(draft.trip, to, cause), now, own)
    draft.rollback = RollbackStatus(
        cause=cause, from_=release.version, to=to.version, started_at=now
    )
    draft.run, draft.standing, draft.stable = run, Standing.ROLLING_BACK, to
    draft.rings, draft.trip = {}, None
    if draft.candidate is not None and draft.candidate.digest == to.digest:
        draft.candidate = None


def resume(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, run: int, now: datetime
) -> None:
    """The published policy takes the current release back, which the status does not say yet."""
    published = observation.published
    if published is None or published.stable is None or draft.release is None:
        return
    to = _named(draft, published.stable.digest)
    if to is None:
        to = status_of(published.stable)
    draft.trip = draft.trip or heard_of_trip(draft, observation, now)
    take_back(draft, to, _cause(draft, to, rollout, observation), run, now)


def made_up(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> RollbackStatus | None:
    """What the status says of the rollback under way, where that was lost."""
    if draft.release is None or draft.stable is None:
        return None
    return RollbackStatus(
        cause=_cause(draft, draft.stable, rollout, observation),
        from_=draft.release.version,
        to=draft.stable.version,
        started_at=now,
    )


def finish(draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime) -> None:
    """Counts who came back; the rollback ends when all did, or after `deviceTimeout`.

    A device is restored once it reports the stable release or completed its download. What is
    not known of at the end is `unconfirmed`. What a person has to do then, `draft.unreachable`
    says.
    """
    if draft.standing is Standing.ROLLING_BACK and draft.rollback is not None:
        _count(draft, draft.rollback, rollout, observation, now)
    draft.unreachable = draft.unreachable or _aftermath(draft, observation)


def _count(
    draft: Draft,
    rollback: RollbackStatus,
    rollout: FirmwareRollout,
    observation: Observation,
    now: datetime,
) -> None:
    counts = _counts(draft, observation, now)
    if counts is not None:
        total = counts.total
        rollback = rollback.model_copy(
            update={"devices": total.members, "restored": total.restored}
        )
    draft.rollback = rollback
    if rollout.spec.state is not State.ACTIVE:
        return
    ends = rollback.started_at + timedelta(seconds=rollout.spec.device_timeout.seconds)
    devices, restored = rollback.devices or 0, rollback.restored or 0
    if counts is not None and restored >= devices:
        draft.standing = Standing.ROLLED_BACK
        draft.rollback = rollback.model_copy(update={"unconfirmed": 0})
    elif now >= ends:
        draft.standing = Standing.ROLLED_BACK
        known = rollback.devices is not None
        draft.rollback = rollback.model_copy(
            update={"unconfirmed": max(0, devices - restored) if known else None}
        )


def moves_at(draft: Draft, rollout: FirmwareRollout) -> datetime | None:
    """When a rollback begins, or the one under way ends, at the latest; None where none does."""
    if draft.standing is Standing.LIVE and draft.trip is not None:
        return draft.trip.at + (FRESH if is_bare(draft.trip) else timedelta(seconds=1))
    if draft.standing is not Standing.ROLLING_BACK or draft.rollback is None:
        return None
    return draft.rollback.started_at + timedelta(seconds=rollout.spec.device_timeout.seconds)


def _aftermath(draft: Draft, observation: Observation) -> Objection | None:
    found, release, rollback = observation.resolution.found, draft.release, draft.rollback
    if draft.standing is not Standing.ROLLED_BACK or release is None or rollback is None:
        return None
    if draft.candidate is not None or rollback.cause is RollbackCause.REVERT:
        return None
    if found is not None and found.digest != release.digest:
        return None
    again = "change spec.retryToken"
    if rollback.cause is RollbackCause.HAND:
        again = "remove spec.rollback and change spec.retryToken"
    return Objection(
        Reason.ROLLED_BACK,
        f"Devices get {rollback.to} instead of {release.version}: release another version, let the "
        f"artifact name {rollback.to} again, or {again} to run {release.version} again.",
    )


def _may_be_told_of(trip: TripStatus, observation: Observation, now: datetime) -> bool:
    """Whether servers may tell in a moment by which numbers the ring failed."""
    published, said = observation.published, observation.answer.said
    if not is_bare(trip) or not trip.at <= now < trip.at + FRESH or published is None:
        return False
    return said is None or said.revision != published.revision


def has_way_back(draft: Draft) -> bool:
    """Whether there is a stable release to take devices of the run back to."""
    stable, release = draft.stable, draft.release
    return stable is not None and (release is None or stable.digest != release.digest)


def _may_act(draft: Draft, rollout: FirmwareRollout) -> bool:
    return rollout.spec.state is State.ACTIVE and draft.unsupported is None


def _target(draft: Draft, hand: Rollback) -> ReleaseStatus | None:
    """The release that devices are to get instead of the current one."""
    to, release = _named(draft, hand.to), draft.release
    return None if to is None or release is None or to.digest == release.digest else to


def _is_taken_back_to(draft: Draft, to: ReleaseStatus) -> bool:
    stable = draft.stable
    return draft.taken_back and stable is not None and stable.digest == to.digest


def _named(draft: Draft, reference: str) -> ReleaseStatus | None:
    """The release of this rollout with this version or digest that can be gone back to."""
    stable = draft.stable
    if stable is not None and names(reference, stable):
        return stable
    return next((_of(entry) for entry in _reachable(draft) if names(reference, entry)), None)


def _reachable(draft: Draft) -> list[HistoryEntry]:
    """The latest run of each content that did not end badly and of which the firmware is known."""
    latest: dict[str, HistoryEntry] = {}
    for entry in draft.history:
        latest.setdefault(entry.digest, entry)
    return [
        entry
        for entry in latest.values()
        if entry.artifact is not None and not draft.failed_before(entry.digest)
    ]


def _of(entry: HistoryEntry) -> ReleaseStatus:
    return ReleaseStatus(
        version=entry.version,
        digest=entry.digest,
        size=entry.artifact.size if entry.artifact is not None else None,
        started_at=entry.started_at,
        finished_at=entry.finished_at,
        artifact=entry.artifact,
        compatibility=entry.compatibility,
    )


def _unknown(draft: Draft, wanted: str) -> Objection:
    release = draft.release
    known = [entry.version for entry in _reachable(draft)]
    if draft.stable is not None and draft.stable.version not in known:
        known.append(draft.stable.version)
    others = [version for version in known if release is None or version != release.version]
    could_be = f"write one of {', '.join(others)}" if others else "there is none to go back to"
    return Objection(
        Reason.ROLLBACK_TARGET_UNKNOWN,
        f"spec.rollback.to: {wanted} is no release that can be gone back to: {could_be}.",
    )


def _is_stored(to: ReleaseStatus, observation: Observation, now: datetime) -> bool:
    published, said = observation.published, observation.served(now)
    if published is None or said is None:
        return False
    return any(
        known.digest == to.digest and said.stored(known.firmware.digest)
        for known in published.releases
    )


def _cause(
    draft: Draft, to: ReleaseStatus, rollout: FirmwareRollout, observation: Observation
) -> RollbackCause:
    """Why the release is taken back, where only the published policy says that it is."""
    hand, found = rollout.spec.rollback, observation.resolution.found
    if hand is not None and asked_by_hand(draft, rollout) and names(hand.to, to):
        return RollbackCause.HAND
    if found is not None and found.digest == to.digest:
        return RollbackCause.REVERT
    if draft.trip is not None and acts_by_rollback(draft.trip, rollout):
        return RollbackCause.FAILURE
    return RollbackCause.REVERT if found is None else RollbackCause.FAILURE


def _why(trip: TripStatus | None, to: ReleaseStatus, cause: RollbackCause) -> str:
    match cause:
        case RollbackCause.FAILURE if trip is not None:
            outcomes = trip.failed + trip.updated
            return (
                f"ring {trip.ring} failed, {trip.failed} of {outcomes} devices: "
                f"taken back to {to.version}"
            )
        case RollbackCause.FAILURE:
            return f"a ring failed: taken back to {to.version}"
        case RollbackCause.HAND:
            return f"taken back to {to.version} by hand (spec.rollback)"
    return f"the artifact went back to {to.version}"


def _counts(draft: Draft, observation: Observation, now: datetime) -> RolloutCounts | None:
    """The counts of this very rollback, if they conclude."""
    published, release = observation.published, draft.release
    if published is None or release is None or not published.rolling_back:
        return None
    if published.state is not State.ACTIVE:
        return None
    return observation.counted(draft.run, release.digest, now).counts
