"""What the counts say of a ring: whether its success condition holds, or why that is not known."""

from dataclasses import dataclass
from enum import StrEnum

from otaflux_operator.engine.observations import Counted
from otaflux_operator.resources import Ring
from otaflux_policy.counts import RingCounts


class Finding(StrEnum):
    """What a ring's counts come to."""

    INCONCLUSIVE = "Inconclusive"
    NO_DEVICES = "NoDevices"
    TOO_FEW_DEVICES = "TooFewDevices"
    UNMET = "Unmet"
    MET = "Met"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a ring's success condition holds now; `why` says what makes it inconclusive."""

    finding: Finding
    counts: RingCounts | None = None
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether anything can be told from it."""
        return self.finding is not Finding.INCONCLUSIVE


def judge(ring: Ring, counted: Counted) -> Judgement:
    """Looks at success only; failure comes before it (`counts.trip`)."""
    if counted.counts is None:
        return Judgement(Finding.INCONCLUSIVE, why=counted.problem)
    counts = counted.counts.ring(ring.name)
    if not counts.members:
        return Judgement(Finding.NO_DEVICES, counts)
    if counts.members < ring.success.min_devices:
        return Judgement(Finding.TOO_FEW_DEVICES, counts)
    met = counts.succeeded >= needed(ring, counts) and not _unheard(ring, counts)
    return Judgement(Finding.MET if met else Finding.UNMET, counts)


def needed(ring: Ring, counts: RingCounts) -> int:
    """How many devices have to run the release for the ring to succeed."""
    share = -(-ring.success.min_updated_percent * counts.active // 100)
    return max(share, ring.success.min_devices)


def asks_for_nothing(ring: Ring) -> bool:
    """Whether the ring asks for no evidence: it is complete once its policy is served."""
    success = ring.success
    return success.min_updated_percent == 0 and success.min_devices == 0 and not ring.soak.seconds


def _unheard(ring: Ring, counts: RingCounts) -> bool:
    """Whether there is nobody of whom a share could be told."""
    return not counts.active and ring.success.min_updated_percent > 0
