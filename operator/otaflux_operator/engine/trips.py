"""Trips: that a ring of the run failed, as servers tell it or as their counts do."""

from datetime import datetime

from otaflux_operator.engine.drafts import Draft, Standing
from otaflux_operator.engine.observations import Observation
from otaflux_operator.resources import FirmwareRollout, TripStatus
from otaflux_policy import counts
from otaflux_policy.contract import FailureAction


def notice_failure(draft: Draft, observation: Observation, now: datetime) -> None:
    """Latches that a ring of the run failed.

    Looked at before success, also while paused, for every open ring until the run ends.
    """
    if draft.trip is None and draft.standing is Standing.LIVE and draft.release is not None:
        draft.trip = known_trip(draft, observation, now)


def known_trip(draft: Draft, observation: Observation, now: datetime) -> TripStatus | None:
    """The trip of the current run: as servers say, else by their counts as of `now`."""
    published, release = observation.published, draft.release
    if (heard := heard_of_trip(draft, observation, now)) is not None:
        return heard
    if published is None or release is None:
        return None
    counted = observation.counted(draft.run, release.digest, now).counts
    trip = counts.trip(published, counted, now) if counted is not None else None
    if trip is None:
        return None
    return TripStatus(ring=trip.ring, failed=trip.failed, updated=trip.updated, at=now)


def heard_of_trip(draft: Draft, observation: Observation, now: datetime) -> TripStatus | None:
    """The trip of the current run as servers have it, however long ago they said so."""
    said = observation.answer.said
    if said is None or said.trip is None or said.trip.run != draft.run:
        return None
    trip = said.trip
    return TripStatus(
        ring=trip.ring,
        failed=trip.failed,
        updated=trip.updated,
        at=min(trip.at.replace(microsecond=0), now),
    )


def is_bare(trip: TripStatus) -> bool:
    """Whether its numbers were lost with the status that should have told of it."""
    return not trip.failed + trip.updated


def acts_by_rollback(trip: TripStatus, rollout: FirmwareRollout) -> bool:
    """Whether the failure of the ring is to be answered by a rollback."""
    return any(
        ring.name == trip.ring and ring.failure.action is FailureAction.ROLLBACK
        for ring in rollout.spec.rings
    )
