"""Facts as rows and back. Times become whole microseconds since 1970 UTC."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Running,
    Said,
    StoredAttempt,
    StoredDevice,
)

Row = dict[str, Any]

TEXT_LIMIT = 256
"""Characters kept of what a device says: a failure's code, its version, its model."""

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


def attempt_row(key: AttemptKey, facts: Facts) -> Row:
    """The row of `schema.attempts`."""
    offer, failure = facts.first_offer, facts.failure
    return {
        **key._asdict(),
        **{name: microseconds(getattr(facts, name)) for name in _TIMES},
        "first_offer": microseconds(offer.at) if offer else None,
        "first_offer_ring": storable(offer.ring) if offer else None,
        "failure": microseconds(failure.at) if failure else None,
        "failure_code": storable(failure.code) if failure else None,
        "slot": slot_of(key, offer.ring) if offer else None,
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


def device_row(key: DeviceKey, facts: DeviceFacts) -> Row:
    """The row of `schema.devices`."""
    said, running = facts.said, facts.running
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
    }


def slot_of(key: AttemptKey, ring: str) -> str:
    """What names the slots of this ring of the attempt's run; the ring stands last."""
    return f"{key.namespace}/{key.rollout}/{key.run}/{storable(ring)}"


def key_parameters(key: AttemptKey) -> Row:
    """Parameters `key_<column>` that name the attempt."""
    return {f"key_{name}": value for name, value in key._asdict().items()}


def attempt_key(row: Mapping[str, Any]) -> AttemptKey:
    """The key of a row of `attempts` or `downloads`."""
    return AttemptKey(*(row[name] for name in AttemptKey._fields))


def stored_attempts(
    rows: Iterable[Mapping[str, Any]], downloads: Iterable[Mapping[str, Any]]
) -> list[StoredAttempt]:
    """The attempts of these rows, in their order."""
    by_key: dict[AttemptKey, list[Download]] = {}
    for row in downloads:
        by_key.setdefault(attempt_key(row), []).append(
            Download(
                _at(row["started"]),
                _at(row["completed"]),
                moment(row["first_poll"]),
                moment(row["last_poll"]),
            )
        )
    found = []
    for row in rows:
        key = attempt_key(row)
        complete = sorted(by_key.get(key, ()), key=lambda download: download.started)
        offer, failure = row["first_offer"], row["failure"]
        facts = Facts(
            first_offer=None if offer is None else FirstOffer(_at(offer), row["first_offer_ring"]),
            failure=None if failure is None else ReportedFailure(_at(failure), row["failure_code"]),
            downloads=tuple(complete),
            **{name: moment(row[name]) for name in _TIMES},
        )
        found.append(StoredAttempt(key, facts))
    return found


def stored_device(row: Mapping[str, Any]) -> StoredDevice:
    """The device of a row."""
    said, running = row["said"], row["running_since"]
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
        ),
    )


def _at(stored: int) -> datetime:
    return _EPOCH + stored * _MICROSECOND
