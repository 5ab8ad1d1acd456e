"""Facts as rows and back. Times become whole microseconds since 1970 UTC."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from otaflux_policy.counts import Trip
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_policy.served import Replica
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Pin,
    Running,
    Said,
    StoredAttempt,
    StoredDevice,
    StoredTrip,
)

Row = dict[str, Any]

TEXT_LIMIT = 256
"""Characters kept of what a device says: a failure's code, its version, its model."""

DOWNLOAD = ("started", "completed", "first_poll", "last_poll")
"""Columns of `schema.downloads` beside the key of its attempt."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMES = (
    "last_offer",
    "offer_ended",
    "first_byte",
    "last_request",
    "install_reported",
    "restart_seen",
    "target_first",
    "target_last",
    "other_first",
    "other_last",
    "last_poll",
)


def microseconds(at: datetime | None) -> int | None:
    """The aware time `at` as microseconds since 1970 UTC."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def moment(stored: int | None) -> datetime | None:
    """The reverse of `microseconds`."""
    return None if stored is None else _EPOCH + stored * _MICROSECOND


def storable(text: str) -> str:
    """The text as both databases take it: bounded, without NUL or half a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text[:TEXT_LIMIT]
    text = text[:TEXT_LIMIT].replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode("utf-8")


def attempt_row(key: AttemptKey, facts: Facts, tick: int) -> Row:
    """The row of `schema.attempts`; `tick` names the transaction that writes it."""
    offer, failure = facts.first_offer, facts.failure
    return {
        **key._asdict(),
        **{name: microseconds(getattr(facts, name)) for name in _TIMES},
        "first_offer": microseconds(offer.at) if offer else None,
        "first_offer_ring": storable(offer.ring) if offer else None,
        "failure": microseconds(failure.at) if failure else None,
        "failure_code": storable(failure.code) if failure else None,
        "downloaded": microseconds(max((d.completed for d in facts.downloads), default=None)),
        "slot": slot_of(key, offer.ring) if offer else None,
        "changed": tick,
    }


def download_rows(key: AttemptKey, facts: Facts) -> list[Row]:
    """The rows of `schema.downloads`."""
    return [
        {
            **key._asdict(),
            "started": microseconds(download.started),
            "completed": microseconds(download.completed),
            "first_poll": microseconds(download.first_poll),
            "last_poll": microseconds(download.last_poll),
        }
        for download in facts.downloads
    ]


def device_row(key: DeviceKey, facts: DeviceFacts, tick: int) -> Row:
    """The row of `schema.devices`; `tick` names the transaction that writes it."""
    said, running, pin = facts.said, facts.running, facts.pin
    return {
        **key._asdict(),
        "first_seen": microseconds(facts.first_seen),
        "last_seen": microseconds(facts.last_seen),
        "first_poll": microseconds(facts.first_poll),
        "last_poll": microseconds(facts.last_poll),
        "said": microseconds(said.at) if said else None,
        "model": storable(said.model) if said else None,
        "version": storable(said.version) if said else None,
        "reported_first": microseconds(facts.reported_first),
        "running_since": microseconds(running.at) if running else None,
        "running": storable(running.digest) if running else None,
        "pinned": microseconds(pin.at) if pin else None,
        "pin_digest": storable(pin.digest) if pin else None,
        "pin_until": microseconds(pin.until) if pin else None,
        "changed": tick,
    }


def trip_row(namespace: str, rollout: str, trip: Trip) -> Row:
    """The row of `schema.trips`."""
    return {
        "namespace": namespace,
        "rollout": rollout,
        "run": trip.run,
        "ring": storable(trip.ring),
        "failed": trip.failed,
        "updated": trip.updated,
        "at": microseconds(trip.at),
    }


def slot_of(key: AttemptKey, ring: str) -> str:
    """What names the slots of this ring of the attempt's run; the ring stands last."""
    return f"{key.namespace}/{key.rollout}/{key.run}/{storable(ring)}"


def key_parameters(key: AttemptKey) -> Row:
    """Parameters `key_<column>` that name the attempt."""
    return {f"key_{name}": value for name, value in key._asdict().items()}


def stored_attempts(rows: Iterable[Mapping[str, Any]]) -> list[tuple[StoredAttempt, int]]:
    """The attempts of these rows, each with what changed it last (`changed`).

    A row is one of `attempts` and, as `download_…`, one of its downloads or NULL.
    """
    facts: dict[AttemptKey, tuple[Facts, int]] = {}
    complete: dict[AttemptKey, list[Download]] = {}
    for row in rows:
        key = AttemptKey(*(row[name] for name in AttemptKey._fields))
        if key not in facts:
            facts[key] = _facts(row), row["changed"]
        if row["download_started"] is not None:
            complete.setdefault(key, []).append(
                Download(
                    _at(row["download_started"]),
                    _at(row["download_completed"]),
                    moment(row["download_first_poll"]),
                    moment(row["download_last_poll"]),
                )
            )
    for key, some in complete.items():
        known, changed = facts[key]
        some.sort(key=lambda download: download.started)
        facts[key] = replace(known, downloads=tuple(some)), changed
    return [(StoredAttempt(key, known), changed) for key, (known, changed) in facts.items()]


def _facts(row: Mapping[str, Any]) -> Facts:
    offer, failure = row["first_offer"], row["failure"]
    times: dict[str, Any] = {name: moment(row[name]) for name in _TIMES}
    return Facts(
        first_offer=None if offer is None else FirstOffer(_at(offer), row["first_offer_ring"]),
        failure=None if failure is None else ReportedFailure(_at(failure), row["failure_code"]),
        **times,
    )


def stored_device(row: Mapping[str, Any]) -> StoredDevice:
    """The device of a row."""
    said, running, pinned = row["said"], row["running_since"], row["pinned"]
    return StoredDevice(
        DeviceKey(row["namespace"], row["device"]),
        DeviceFacts(
            first_seen=_at(row["first_seen"]),
            last_seen=_at(row["last_seen"]),
            first_poll=moment(row["first_poll"]),
            last_poll=moment(row["last_poll"]),
            said=None if said is None else Said(_at(said), row["model"], row["version"]),
            reported_first=moment(row["reported_first"]),
            running=None if running is None else Running(_at(running), row["running"]),
            pin=None
            if pinned is None
            else Pin(_at(pinned), row["pin_digest"], _at(row["pin_until"])),
        ),
    )


def stored_trip(row: Mapping[str, Any]) -> StoredTrip:
    """The trip of a row."""
    trip = Trip(
        run=row["run"],
        ring=row["ring"],
        failed=row["failed"],
        updated=row["updated"],
        at=_at(row["at"]),
    )
    return StoredTrip(row["namespace"], row["rollout"], trip)


def replica_row(replica: Replica) -> Row:
    """The row of `schema.replicas`."""
    return {
        "name": replica.name,
        "seen_at": microseconds(replica.seen_at),
        "replica": replica.model_dump_json(),
    }


def stored_replica(row: Mapping[str, Any]) -> Replica:
    """The replica of a row; one of another version that ours cannot read serves nothing we know."""
    try:
        return Replica.model_validate_json(row["replica"])
    except ValidationError:
        seen_at = _at(row["seen_at"])
        return Replica(name=row["name"], started_at=seen_at, seen_at=seen_at)


def _at(stored: int) -> datetime:
    return _EPOCH + stored * _MICROSECOND
