"""Devices that this server has seen, in memory and bounded."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts
from otaflux_policy.reasons import DecisionReason
from otaflux_server.placing import Placement

if TYPE_CHECKING:
    from otaflux_server.coverage import Coverage
    from otaflux_server.decisions import Cached

DeviceKey = tuple[str, str]
"""Namespace and device id."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says of an update."""

    release: str
    state: str
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """The last complete download of a device; `at` in seconds since 1970."""

    at: float
    digest: str


class DeviceRecord:
    """What is known of one device. Times in seconds since 1970, where they are numbers.

    `device` holds what the last poll said, and the digest that the device is known to run;
    `reports`: it ever said a version. `attempts` are the facts of its attempts, by rollout.
    `said_at` is when it said its model and version, `reported_first` when it first said a version,
    `running_since` when it was found to run the digest, or not to any more.
    `cached`, `place` belong to `Decisions`, `dormant` to `Counting`. The artifact
    with the digest `pinned` is what `/version` announced last, good until `pinned_until`
    (monotonic clock); `pinned_at` is when that was said, or taken back. `offered` is the attempt
    whose offer stands untaken. From `due` on a poll has something to record, from `contact_due`
    on a contact has. `unread`: the database may know more of it. From `rested_at` (monotonic clock)
    on the device may ask as often as one that never asked.
    """

    __slots__ = (
        "attempts",
        "attributes",
        "cached",
        "contact_due",
        "coverage",
        "device",
        "dormant",
        "due",
        "first_poll",
        "first_seen",
        "last_poll",
        "last_seen",
        "offered",
        "pinned",
        "pinned_at",
        "pinned_until",
        "place",
        "protocol",
        "reason",
        "report",
        "reported_at",
        "reported_first",
        "reports",
        "rested_at",
        "running_since",
        "said_at",
        "transfer",
        "unread",
    )

    def __init__(self, device: Device, protocol: str, now: float) -> None:
        self.device = device
        self.protocol = protocol
        self.first_seen = now
        self.last_seen = now
        self.first_poll: float | None = None
        self.last_poll: float | None = None
        self.attributes: Mapping[str, str] = {}
        self.reason: DecisionReason | None = None
        self.cached: Cached | None = None
        self.place: Placement | None = None
        self.attempts: dict[str, dict[AttemptRef, Facts]] = {}
        self.offered: tuple[str, AttemptRef] | None = None
        self.dormant = False
        self.unread = False
        self.reported_first: datetime | None = None
        self.reports = False
        self.said_at: datetime | None = None
        self.running_since: datetime | None = None
        self.due = 0.0
        self.contact_due = 0.0
        self.rested_at = 0.0
        self.pinned: str | None = None
        self.pinned_until = 0.0
        self.pinned_at = 0.0
        self.report: Report | None = None
        self.reported_at: float | None = None
        self.transfer: Transfer | None = None
        self.coverage: Coverage | None = None

    @property
    def key(self) -> DeviceKey:
        """Namespace and id."""
        return (self.device.namespace, self.device.id)


class Devices:
    """Records by namespace and id; beyond the limit, those longest unseen are forgotten.

    `forgets` is called with each that is; `incomplete`: the database knows of devices that are
    not here, because they were forgotten or found no room.
    """

    def __init__(self, limit: int, forgets: Callable[[DeviceRecord], None] | None = None) -> None:
        self.limit = limit
        self.forgets = forgets
        self.incomplete = False
        self._records: OrderedDict[DeviceKey, DeviceRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[DeviceRecord]:
        """All of them, the longest unseen first; nothing may be added meanwhile."""
        return iter(self._records.values())

    def keys(self) -> list[DeviceKey]:
        """The keys of all of them now."""
        return list(self._records)

    def seen(self, namespace: str, device: str, protocol: str, now: float) -> DeviceRecord:
        """The device's record, begun where there is none, with its time set to `now`."""
        key = (namespace, device)
        record = self._records.get(key)
        if record is None:
            record = DeviceRecord(Device(namespace, device), protocol, now)
            record.unread = self.incomplete
            self._records[key] = record
            if len(self._records) > self.limit:
                _, forgotten = self._records.popitem(last=False)
                self.incomplete = True
                if self.forgets is not None:
                    self.forgets(forgotten)
            return record
        self._records.move_to_end(key)
        record.last_seen = now
        record.protocol = protocol
        return record

    def take_up(self, namespace: str, device: str, seen: float) -> DeviceRecord | None:
        """The record of a device that was heard of elsewhere; None: there is no room for it."""
        key = (namespace, device)
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= self.limit:
                self.incomplete = True
                return None
            record = self._records[key] = DeviceRecord(Device(namespace, device), "", seen)
            record.unread = self.incomplete
        return record

    def forget(self, record: DeviceRecord) -> None:
        """The device is gone for good, from the database as well."""
        if self._records.get(record.key) is record:
            del self._records[record.key]
            if self.forgets is not None:
                self.forgets(record)

    def get(self, namespace: str, device: str) -> DeviceRecord | None:
        """The device's record, if it was seen."""
        return self._records.get((namespace, device))

    def page(
        self, limit: int, *, namespace: str | None = None, after: DeviceKey | None = None
    ) -> list[DeviceRecord]:
        """Up to `limit` records in order of namespace and id, those behind `after`."""
        keys = heapq.nsmallest(
            limit,
            (
                key
                for key in self._records
                if (after is None or key > after) and (namespace is None or key[0] == namespace)
            ),
        )
        return [self._records[key] for key in keys]
