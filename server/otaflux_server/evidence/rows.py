"""Facts as rows and back. Times become whole microseconds since 1970 UTC."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, bindparam

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
Values = tuple[Any, ...]
"""A row as its values alone, in the order of its columns: cheap for many rows."""

TEXT_LIMIT = 256
"""Characters kept of what a device says: a failure's code, its version, its model."""

DOWNLOAD = ("started", "completed", "first_poll", "last_poll")
"""Columns of `schema.downloads` beside the key of its attempt."""

ATTEMPT = (
    *AttemptKey._fields,
    "first_offer",
    "first_offer_ring",
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
    "failure",
    "failure_code",
    "last_poll",
    "downloaded",
    "slot",
    "changed",
)
"""Columns of `attempt_row`."""

STORED_ATTEMPT = tuple(name for name in ATTEMPT if name not in ("downloaded", "slot"))
"""Columns of `schema.attempts` that `stored_attempts` reads, followed by those of `DOWNLOAD`."""

DEVICE = (
    *DeviceKey._fields,
    "first_seen",
    "last_seen",
    "first_poll",
    "last_poll",
    "said",
    "model",
    "version",
    "reported_first",
    "running_since",
    "running",
    "pinned",
    "pin_digest",
    "pin_until",
    "changed",
)
"""Columns of `device_row` and `stored_device`: all of `schema.devices`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime | None) -> int | None:
    """The aware time `at` as microseconds since 1970 UTC."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def moment(stored: int | None) -> datetime | None:
    """The reverse of `microseconds`."""
    return None if stored is None else _at(stored)


def storable(text: str) -> str:
    """The text as both databases take it: bounded, without NUL or half a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text[:TEXT_LIMIT]
    text = text[:TEXT_LIMIT].replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode("utf-8")


def attempt_row(key: AttemptKey, facts: Facts, tick: int) -> Values:
    """The row `ATTEMPT`; `tick` names the transaction that writes it."""
    offer, failure = facts.first_offer, facts.failure
    return (
        *key,
        microseconds(offer.at) if offer else None,
        storable(offer.ring) if offer else None,
        microseconds(facts.last_offer),
        microseconds(facts.offer_ended),
        microseconds(facts.first_byte),
        microseconds(facts.last_request),
        microseconds(facts.install_reported),
        microseconds(facts.restart_seen),
        microseconds(facts.target_first),
        microseconds(facts.target_last),
        microseconds(facts.other_first),
        microseconds(facts.other_last),
        microseconds(failure.at) if failure else None,
        storable(failure.code) if failure else None,
        microseconds(facts.last_poll),
        microseconds(max((d.completed for d in facts.downloads), default=None)),
        slot_of(key, offer.ring) if offer else None,
        tick,
    )


def download_rows(key: AttemptKey, facts: Facts) -> list[Values]:
    """The rows of `schema.downloads`: key and `DOWNLOAD`."""
    return [
        (
            *key,
            microseconds(download.started),
            microseconds(download.completed),
            microseconds(download.first_poll),
            microseconds(download.last_poll),
        )
        for download in facts.downloads
    ]


def device_row(key: DeviceKey, facts: DeviceFacts, tick: int) -> Values:
    """The row `DEVICE`; `tick` names the transaction that writes it."""
    said, running, pin = facts.said, facts.running, facts.pin
    return (
        *key,
        microseconds(facts.first_seen),
        microseconds(facts.last_seen),
        microseconds(facts.first_poll),
        microseconds(facts.last_poll),
        microseconds(said.at) if said else None,
        storable(said.model) if said else None,
        storable(said.version) if said else None,
        microseconds(facts.reported_first),
        microseconds(running.at) if running else None,
        storable(running.digest) if running else None,
        microseconds(pin.at) if pin else None,
        storable(pin.digest) if pin else None,
        microseconds(pin.until) if pin else None,
        tick,
    )


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


def of_key(columns: Any) -> list[ColumnElement[bool]]:
    """Conditions for rows of the attempt that `key_parameters` name; `columns` of any table."""
    return [columns[name] == bindparam(f"key_{name}") for name in AttemptKey._fields]


def stored_attempts(rows: Iterable[Sequence[Any]]) -> list[tuple[StoredAttempt, int]]:
    """The attempts of these rows, each with what changed it last (`changed`).

    A row is `STORED_ATTEMPT` and, as `DOWNLOAD`, one of its downloads or NULL.
    """
    facts: dict[AttemptKey, tuple[Facts, int]] = {}
    complete: dict[AttemptKey, list[Download]] = {}
    width, keys = len(STORED_ATTEMPT), len(AttemptKey._fields)
    for row in rows:
        key = AttemptKey(*row[:keys])
        if key not in facts:
            facts[key] = _facts(row[keys : width - 1]), row[width - 1]
        started, completed, first_poll, last_poll = row[width:]
        if started is not None:
            complete.setdefault(key, []).append(
                Download(_at(started), _at(completed), moment(first_poll), moment(last_poll))
            )
    for key, some in complete.items():
        known, changed = facts[key]
        some.sort(key=lambda download: download.started)
        facts[key] = replace(known, downloads=tuple(some)), changed
    return [(StoredAttempt(key, known), changed) for key, (known, changed) in facts.items()]


def _facts(values: Sequence[Any]) -> Facts:
    (
        first_offer,
        first_offer_ring,
        last_offer,
        offer_ended,
        first_byte,
        last_request,
        install_reported,
        restart_seen,
        target_first,
        target_last,
        other_first,
        other_last,
        failure,
        failure_code,
        last_poll,
    ) = values
    return Facts(
        first_offer=None if first_offer is None else FirstOffer(_at(first_offer), first_offer_ring),
        last_offer=moment(last_offer),
        offer_ended=moment(offer_ended),
        first_byte=moment(first_byte),
        last_request=moment(last_request),
        install_reported=moment(install_reported),
        restart_seen=moment(restart_seen),
        target_first=moment(target_first),
        target_last=moment(target_last),
        other_first=moment(other_first),
        other_last=moment(other_last),
        failure=None if failure is None else ReportedFailure(_at(failure), failure_code),
        last_poll=moment(last_poll),
    )


def stored_device(row: Sequence[Any]) -> StoredDevice:
    """The device of a row `DEVICE`."""
    (
        namespace,
        device,
        first_seen,
        last_seen,
        first_poll,
        last_poll,
        said,
        model,
        version,
        reported_first,
        running_since,
        running,
        pinned,
        pin_digest,
        pin_until,
        _,
    ) = row
    return StoredDevice(
        DeviceKey(namespace, device),
        DeviceFacts(
            first_seen=_at(first_seen),
            last_seen=_at(last_seen),
            first_poll=moment(first_poll),
            last_poll=moment(last_poll),
            said=None if said is None else Said(_at(said), model, version),
            reported_first=moment(reported_first),
            running=None if running_since is None else Running(_at(running_since), running),
            pin=None if pinned is None else Pin(_at(pinned), pin_digest, _at(pin_until)),
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
