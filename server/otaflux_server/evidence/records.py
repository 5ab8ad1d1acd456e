"""What the evidence store keeps, and by which keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from otaflux_policy.counts import Trip
from otaflux_policy.facts import Facts, joined


class RunKey(NamedTuple):
    """One run of one rollout."""

    namespace: str
    rollout: str
    run: int


class AttemptKey(NamedTuple):
    """One device's attempt at one release (a manifest digest) in one run."""

    namespace: str
    rollout: str
    run: int
    digest: str
    device: str


class DeviceKey(NamedTuple):
    """One device; the same id in two namespaces is two devices."""

    namespace: str
    device: str


class StoredAttempt(NamedTuple):
    """An attempt and all that is stored of it."""

    key: AttemptKey
    facts: Facts


class StoredRun(NamedTuple):
    """A run of which facts are stored: how many attempts, and the last time any was heard of."""

    key: RunKey
    attempts: int
    last_fact: datetime | None


class StoredTrip(NamedTuple):
    """The breaker of one run, opened."""

    namespace: str
    rollout: str
    trip: Trip


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """What `/version` told the device at `at`: until `until`, `/firmware` gives these bytes.

    The latest counts; one without a digest breaks those before it.
    """

    at: datetime
    digest: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Offer:
    """A release that a device is to be offered now; `ring` is the one whose slot it takes.

    `pin` is written to the device with it.
    """

    key: AttemptKey
    ring: str
    at: datetime
    pin: Pin | None = None


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """What a poll said of the device; empty where it was silent. The latest counts."""

    at: datetime
    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Running:
    """The manifest digest that the device is known to run. The latest counts."""

    at: datetime
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device; joined like `Facts`, so that order and replicas do not matter.

    `reported_first`: when it first said a version. `first_poll` and `last_poll` are polls alone,
    `first_seen` and `last_seen` any contact.
    """

    first_seen: datetime
    last_seen: datetime
    first_poll: datetime | None = None
    last_poll: datetime | None = None
    said: Said | None = None
    reported_first: datetime | None = None
    running: Running | None = None
    pin: Pin | None = None

    def join(self, other: "DeviceFacts") -> "DeviceFacts":
        """What both know."""
        return DeviceFacts(
            first_seen=min(self.first_seen, other.first_seen),
            last_seen=max(self.last_seen, other.last_seen),
            first_poll=joined(self.first_poll, other.first_poll, min),
            last_poll=joined(self.last_poll, other.last_poll, max),
            said=joined(self.said, other.said, max),
            reported_first=joined(self.reported_first, other.reported_first, min),
            running=joined(self.running, other.running, max),
            pin=joined(self.pin, other.pin, max),
        )


class StoredDevice(NamedTuple):
    """A device and all that is stored of it."""

    key: DeviceKey
    facts: DeviceFacts


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts to be merged: all of them or, on an error, none."""

    attempts: Mapping[AttemptKey, Facts] = field(default_factory=dict)
    devices: Mapping[DeviceKey, DeviceFacts] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.attempts) + len(self.devices)


@dataclass(frozen=True, slots=True)
class Seen:
    """Which transactions a reading could see: those below `below`, but for `but`."""

    below: int
    but: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where changes were read; good for the store that made it, until it is restored.

    All that `since` saw is read (None: nothing is). Of a reading that takes several pages,
    `begun` is what its first page could see, and `devices_read` and `after` say how far it is.
    """

    since: Seen | None = None
    begun: Seen | None = None
    devices_read: bool = False
    after: tuple[str | int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of what was merged since a mark, by whomever.

    The next call with `mark` goes on from here; `complete`: there was nothing more just now.
    `trips` are all that are stored, and come with the last page.
    """

    attempts: list[StoredAttempt]
    devices: list[StoredDevice]
    trips: list[StoredTrip]
    mark: Mark
    complete: bool
