"""What is told of a ring that failed."""

from datetime import datetime

from otaflux_operator.engine.drafts import Draft, Objection, Standing
from otaflux_operator.engine.observations import Observation
from otaflux_operator.engine.rollbacks import has_way_back
from otaflux_operator.engine.trips import acts_by_rollback, is_bare
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import FirmwareRollout, ReleaseStatus, TripStatus

CODES = 3
"""Causes of failures that are told, the most frequent ones."""


def objection(
    draft: Draft, rollout: FirmwareRollout, observation: Observation, now: datetime
) -> Objection | None:
    """Which ring failed, by which numbers, and what a person can do; None: no ring did.

    None also where a rollback is about to answer it.
    """
    trip, release = draft.trip, draft.release
    if trip is None or release is None or draft.standing is not Standing.LIVE:
        return None
    what = f"{summary(draft, trip, rollout, observation, now)} Nobody is offered {release.version}"
    if acts_by_rollback(trip, rollout):
        if has_way_back(draft):
            return None
        return Objection(
            Reason.NO_STABLE_RELEASE,
            f"{what} any more, and no release completed before to which its devices could be "
            "taken back: release another version, or change spec.retryToken to run it again.",
        )
    return Objection(Reason.RING_FAILED, f"{what} any more: {_what_to_do(draft, release)}")


def summary(
    draft: Draft,
    trip: TripStatus,
    rollout: FirmwareRollout,
    observation: Observation,
    now: datetime,
) -> str:
    """By which numbers the ring failed, in a sentence, with the codes that are known."""
    if is_bare(trip):
        return f"Ring {trip.ring} failed." if trip.ring else "A ring failed."
    rule = next((ring.failure for ring in rollout.spec.rings if ring.name == trip.ring), None)
    limit = f"; {rule.max_percent} % may fail" if rule is not None else ""
    outcomes = trip.failed + trip.updated
    percent = trip.failed * 100 // outcomes
    text = f"Ring {trip.ring} failed: {trip.failed} of {outcomes} outcomes ({percent} %{limit})"
    codes = _codes(draft, trip, observation, now)
    return f"{text}: {codes}." if codes else f"{text}."


def _codes(draft: Draft, trip: TripStatus, observation: Observation, now: datetime) -> str:
    release = draft.release
    known = observation.counted(draft.run, release.digest, now).counts if release else None
    if known is None:
        return ""
    ring = known.ring(trip.ring)
    codes = {**ring.codes, **({"TimedOut": ring.timed_out} if ring.timed_out else {})}
    ranked = sorted(codes.items(), key=lambda known: (-known[1], known[0]))
    return ", ".join(f"{code} {count}" for code, count in ranked[:CODES])


def _what_to_do(draft: Draft, release: ReleaseStatus) -> str:
    back = ""
    if draft.stable is not None and draft.stable.digest != release.digest:
        back = f"let the artifact name {draft.stable.version} again to take it back, "
    return f"release another version, {back}or change spec.retryToken to run it again."
