"""Devices that this server has seen, in memory and bounded."""

import heapq
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from otaflux_policy.devices import Device
from otaflux_policy.reasons import DecisionReason
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
    """What is known of one device. Times in seconds since 1970.

    `device` holds what the last poll said; `cached` belongs to `Decisions`. The artifact with the
    digest `pinned` is what `/version` announced last, good until `pinned_until` (monotonic clock).
    """

    __slots__ = (
        "attributes",
        "cached",
        "device",
        "first_seen",
        "last_seen",
        "pinned",
        "pinned_until",
        "protocol",
        "reason",
        "report",
        "reported_at",
        "transfer",
    )

    def __init__(self, device: Device, protocol: str, now: float) -> None:
        self.device = device
        self.protocol = protocol
        self.first_seen = now
        self.last_seen = now
        self.attributes: Mapping[str, str] = {}
        self.reason: DecisionReason | None = None
        self.cached: Cached | None = None
        self.pinned: str | None = None
        self.pinned_until = 0.0
        self.report: Report | None = None
        self.reported_at: float | None = None
        self.transfer: Transfer | None = None


class Devices:
    """Records by namespace and id; beyond the limit, those longest unseen are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[DeviceKey, DeviceRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def seen(self, namespace: str, device: str, protocol: str, now: float) -> DeviceRecord:
        """The device's record, begun where there is none, with its time set to `now`."""
        key = (namespace, device)
        record = self._records.get(key)
        if record is None:
            record = DeviceRecord(Device(namespace, device), protocol, now)
            self._records[key] = record
            if len(self._records) > self._limit:
                self._records.popitem(last=False)
            return record
        self._records.move_to_end(key)
        record.last_seen = now
        record.protocol = protocol
        return record

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
