"""The devices of one namespace, and what they add to the counts of its rollouts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from otaflux_policy.attempts import IN_FLIGHT, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.counts import RolloutCounts, Share, Tally
from otaflux_policy.groups import Groups
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import Placer
from otaflux_server.rules import Rules

_MOST_WEIGHTS = 10_000


@dataclass(frozen=True, slots=True)
class Weight:
    """What one device adds: `shares` by rollout, and one to each of `shadowed`.

    Not `counted`: it may be a scanner, so that it adds to no count. `waits`: a mere contact of the
    device may change it.
    """

    shares: tuple[tuple[str, Share], ...] = ()
    shadowed: tuple[str, ...] = ()
    counted: bool = False
    waits: bool = True


class Slots(Mapping[tuple[str, str], int]):
    """How many further devices each ring with `maxConcurrent` may start, by (rollout, ring).

    A view of what is known at the moment. It may promise too much, while devices are counted
    anew or other replicas offer too: the claim in the database decides.
    """

    def __init__(self, limits: dict[tuple[str, str], int], taken: Counter[tuple[str, str]]) -> None:
        self._limits = limits
        self._taken = taken

    def __getitem__(self, ring: tuple[str, str]) -> int:
        return max(0, self._limits[ring] - self._taken[ring])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)


class Entry:
    """A device and what it adds; that is part of the counts if `round` is that of its space."""

    __slots__ = ("gone", "record", "round", "tick", "weight")

    def __init__(self, record: DeviceRecord) -> None:
        self.record = record
        self.weight = NOTHING
        self.round = -1
        self.tick: int | None = None
        self.gone = False


NOTHING = Weight()
NO_SLOTS = Slots({}, Counter())
_NO_RULES = Placer(Rules(-2, (), Groups()))


class Space:
    """One namespace. While devices are `waiting`, `before` holds the counts from before."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.round = 0
        self.compiled = _NO_RULES
        self.policies: dict[str, Policy] = {}
        self.tallies: dict[str, Tally] = {}
        self.shadowed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.slots = NO_SLOTS
        self.waiting: Iterator[Entry] | None = None
        self.waiting_since = 0.0
        self.before: dict[str, RolloutCounts] = {}
        self._weights: dict[Weight, Weight] = {}

    @property
    def rules(self) -> Rules:
        """Those by which devices are counted."""
        return self.compiled.rules

    def use(self, compiled: Placer) -> None:
        """Begins to count from nothing, by these rules."""
        self.round += 1
        self.compiled = compiled
        self.policies = {policy.name: policy for policy in compiled.rules.policies}
        self.tallies = {name: Tally() for name in self.policies}
        self.shadowed.clear()
        self.failed.clear()
        self.in_flight.clear()
        limits = {
            (policy.name, ring.name): ring.max_concurrent
            for policy in compiled.rules.policies
            for ring in policy.rings
            if ring.max_concurrent is not None
        }
        self.slots = Slots(limits, self.in_flight)
        self.waiting = iter(list(self.entries.values()))
        self._weights = {}

    def shared(self, weight: Weight) -> Weight:
        """The same weight for all devices that add the same: few objects, however many devices."""
        if len(self._weights) > _MOST_WEIGHTS:
            self._weights.clear()
        return self._weights.setdefault(weight, weight)

    def add(self, weight: Weight, by: int) -> set[str]:
        """Adds (1) or takes away (-1); returns the rollouts of which outcomes changed."""
        outcomes = set()
        for name, share in weight.shares:
            if share.member and share.state in IN_FLIGHT:
                self.in_flight[name, share.ring] += by
            tally = self.tallies[name]
            if not weight.counted:
                tally.note(share, by)
                continue
            if by > 0:
                tally.add(share)
            else:
                tally.remove(share)
            if share.outcome_ring:
                outcomes.add(name)
                if share.state is not AttemptState.UPDATED:
                    self.failed[name] += by
        if weight.counted:
            for name in weight.shadowed:
                self.shadowed[name] += by
        return outcomes
