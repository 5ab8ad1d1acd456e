"""One device's attempt at one release in one run, and what else a decision looks up."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum


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

    `touched`: the device's first byte is in, or it is known to run, a release that is being
    rolled back.
    """

    state: AttemptState
    touched: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the server knows beside the policies, for one device.

    `attempts` is keyed by rollout name. `slots` says how many further devices a ring with
    `maxConcurrent` may start, keyed by (rollout, ring); a missing entry means none, so that a
    server that cannot count starts nobody. `tripped` names rollouts whose breaker is open.
    `stored` holds the digests of artifacts that can be served.
    """

    stored: Set[str]
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    slots: Mapping[tuple[str, str], int] = field(default_factory=dict)
    tripped: Set[str] = frozenset()
