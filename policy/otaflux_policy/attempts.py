"""One device's attempt at one release in one run, and what else a decision looks up."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class AttemptRef(NamedTuple):
    """Which attempt of a device at a release of one rollout: the run and the manifest digest."""

    run: int
    digest: str


class AttemptState(StrEnum):
    """How far the device got; derived from recorded facts, never set."""

    OFFERED = "Offered"
    DOWNLOADING = "Downloading"
    DOWNLOADED = "Downloaded"
    INSTALLING = "Installing"
    UPDATED = "Updated"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    WITHDRAWN = "Withdrawn"
    NOT_REQUESTED = "NotRequested"


IN_FLIGHT = frozenset(
    {
        AttemptState.OFFERED,
        AttemptState.DOWNLOADING,
        AttemptState.DOWNLOADED,
        AttemptState.INSTALLING,
    }
)
UNSUCCESSFUL = frozenset({AttemptState.FAILED, AttemptState.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt of the rollout's run; in a rollback, the attempt at the stable release.

    `state` is None where the device has no such attempt. `touched`: the first byte of a release
    since the stable one is in.
    """

    state: AttemptState | None
    touched: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the server knows beside the policies, for one device.

    `attempts` is keyed by rollout name. `slots` says how many further devices a ring with
    `maxConcurrent` may start, keyed by (rollout, ring); a missing entry means none, so that a
    server that cannot count starts nobody. `tripped` names rollouts whose run's breaker is open.
    `stored` holds the digests of artifacts that can be served.
    """

    stored: Set[str]
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    slots: Mapping[tuple[str, str], int] = field(default_factory=dict)
    tripped: Set[str] = frozenset()
