"""What is known of one device's attempt at one release in one run: facts that only ever grow.

Each fact is a time that moves one way (the first of something only earlier, the last only later)
or a small set of such. Joining two sets of facts is therefore commutative, associative and
idempotent: any order, any duplication and any split over replicas gives the same facts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import TypeVar

MAX_DOWNLOADS = 3
"""Complete downloads that are kept, the earliest: so many are a failure by themselves."""

_T = TypeVar("_T")


def joined(a: _T | None, b: _T | None, join: Callable[[_T, _T], _T]) -> _T | None:
    """What both know of one fact: the one that is known, or both joined."""
    if a is None or b is None:
        return b if a is None else a
    return join(a, b)


@dataclass(frozen=True, slots=True)
class Download:
    """A complete download; `started` names it.

    `first_poll` and `last_poll` are polls since, answered with the release, as far as whoever
    answered knew of this download.
    """

    started: datetime
    completed: datetime
    first_poll: datetime | None = None
    last_poll: datetime | None = None

    def join(self, other: "Download") -> "Download":
        """What both know of the same download."""
        return Download(
            self.started,
            min(self.completed, other.completed),
            joined(self.first_poll, other.first_poll, min),
            joined(self.last_poll, other.last_poll, max),
        )


@dataclass(frozen=True, slots=True, order=True)
class ReportedFailure:
    """The device said that it failed; of several the latest counts."""

    at: datetime
    code: str


@dataclass(frozen=True, slots=True, order=True)
class FirstOffer:
    """The first offer, and the ring that the device was in then: its outcome belongs there."""

    at: datetime
    ring: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All facts of one attempt; None where nothing is known. Times are aware.

    `last_offer` is when the offer that stands was claimed: claims are written at once, so their
    time is the same for everyone. An offer that ended may be claimed anew. `target` is the
    release's version (or digest), `other` any other that the device reported; devices that report
    do so with each poll, so only the first and the last time count.
    """

    first_offer: FirstOffer | None = None
    last_offer: datetime | None = None
    offer_ended: datetime | None = None
    first_byte: datetime | None = None
    last_request: datetime | None = None
    downloads: tuple[Download, ...] = ()
    install_reported: datetime | None = None
    restart_seen: datetime | None = None
    target_first: datetime | None = None
    target_last: datetime | None = None
    other_first: datetime | None = None
    other_last: datetime | None = None
    failure: ReportedFailure | None = None
    last_poll: datetime | None = None

    def join(self, other: "Facts") -> "Facts":
        """What both know."""
        return Facts(
            first_offer=joined(self.first_offer, other.first_offer, min),
            last_offer=joined(self.last_offer, other.last_offer, max),
            offer_ended=joined(self.offer_ended, other.offer_ended, max),
            first_byte=joined(self.first_byte, other.first_byte, min),
            last_request=joined(self.last_request, other.last_request, max),
            downloads=_join_downloads(self.downloads, other.downloads),
            install_reported=joined(self.install_reported, other.install_reported, min),
            restart_seen=joined(self.restart_seen, other.restart_seen, min),
            target_first=joined(self.target_first, other.target_first, min),
            target_last=joined(self.target_last, other.target_last, max),
            other_first=joined(self.other_first, other.other_first, min),
            other_last=joined(self.other_last, other.other_last, max),
            failure=joined(self.failure, other.failure, max),
            last_poll=joined(self.last_poll, other.last_poll, max),
        )


def join_all(parts: Iterable[Facts]) -> Facts:
    """What all of them know together."""
    return reduce(Facts.join, parts, Facts())


def _join_downloads(
    some: tuple[Download, ...], others: tuple[Download, ...]
) -> tuple[Download, ...]:
    known: dict[datetime, Download] = {}
    for download in (*some, *others):
        before = known.get(download.started)
        known[download.started] = download if before is None else before.join(download)
    return tuple(known[started] for started in sorted(known)[:MAX_DOWNLOADS])
