"""How often, how many, how long."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Tells the time, as an aware one."""


def current() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, and numbers of workers."""

    workers: int = 16
    """Objects that are reconciled at a time."""

    resolve_workers: int = 16
    """Registries that are asked at a time; a slow one holds up nobody but these."""

    lookup_most: float = 900.0
    """One lookup with all that belongs to it: tags, manifests, signatures, an archive."""

    ask_workers: int = 8
    """Questions to the servers at a time."""

    retry_first: float = 1.0
    """First pause after a registry failed; doubled each time, with jitter."""

    retry_most: float = 60.0
    """So long a corrected Secret waits at most, as nobody watches those."""

    error_first: float = 0.2
    """First pause after a reconciliation failed; doubled each time, with jitter."""

    error_most: float = 30.0

    ask_first: float = 0.02
    """First pause before servers are asked whether they are done; grows to `ask_most`."""

    ask_most: float = 2.0

    ask_evidence: float = 2.0
    """How often servers are asked for the counts of a rollout that is judged by them."""

    evidence_rate: float = 100.0
    """Questions for counts a second, of all rollouts together; where more are judged by them,
    each is asked for more rarely."""

    evidence_used: float = 20.0
    """A rollout that is judged by counts is looked at this often even if they stay the same, as
    old ones tell nothing (`engine.FRESH`)."""

    ask_steady: float = 30.0
    """How often servers are asked where nothing is waited for."""

    status_every: float = 10.0
    """Least distance of status writes that change neither phase nor a condition."""

    heal_after: float = 5.0
    """How long after a write servers may refuse it as an older one before it is written again under
    a higher epoch: until then they may mean the one before."""

    sweep_every: float = 60.0
    """How often published objects are compared with those that exist."""
