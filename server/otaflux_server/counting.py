"""How far every rollout's devices are, at any time: counts that follow each change.

Every known device adds its `Share` to the rollouts that it concerns. A share changes when the
server learns something of the device (`changed`), when time alone changes it, and when policies
or groups change: then all devices of the namespace are placed and counted anew, little by
little. Until that is done, the counts are those from before, under the revision from before.
"""

import asyncio
import contextlib
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import structlog

from otaflux_policy.assessing import Assessment, Spans, assess, terms
from otaflux_policy.attempts import IN_FLIGHT, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.counts import (
    RolloutCounts,
    Share,
    Tally,
    Trip,
    member_share,
    outcome_share,
    trip,
)
from otaflux_policy.decisions import Match
from otaflux_policy.groups import Groups
from otaflux_server.breakers import Breakers, Trips
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import Placement, Placer, placer
from otaflux_server.policies import PolicyStore, Rules
from otaflux_server.slices import SLICE_SECONDS

log = structlog.get_logger(__name__)

_AT_ONCE_SECONDS = 0.002
"""So much is done within the change that calls for it: all of a small fleet."""
_TICKS = 4
"""Per second: how exactly changes by time alone are noticed."""
_LONGEST_WAIT = 60.0
_BACK_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0
_SURPLUS_TICKS = 1024
_MOST_WEIGHTS = 10_000
_NEVER = float("inf")


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


class Counting:
    """`async with Counting(policies) as counting:` counts in the background until the block ends.

    Nothing is counted before `loaded()`: what the database holds must be known first. Everything
    runs on the server's event loop; no call keeps it for long.
    """

    def __init__(
        self,
        policies: PolicyStore,
        *,
        spans: Spans | None = None,
        scan_seconds: float = 600.0,
        store: Trips | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`scan_seconds`: see `counted`. `store` keeps trips; None: they end with the process."""
        self.breakers = Breakers(store)
        self.longest_slice = 0.0
        """Seconds; the longest that the event loop was kept so far."""
        self._policies = policies
        self._spans = spans or Spans()
        self.scan_seconds = scan_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._loaded = False
        self._restored_at = -_NEVER
        self._spaces: dict[str, _Space] = {}
        self._unsettled: dict[str, None] = {}
        self._calendar = _Calendar()
        self._tripped: dict[str, tuple[int, int, Set[str]]] = {}
        self._wake = asyncio.Event()
        self._newest = clock()
        self._tasks: list[asyncio.Task[None]] = []
        policies.subscribe(self._policies_changed)

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._run(), name="counting"),
            asyncio.create_task(self.breakers.run(), name="breakers"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.breakers.write()

    # What the server tells

    def loaded(self, restored_at: datetime | None = None) -> None:
        """All that the database holds was told by `changed`: counting begins.

        `restored_at`: when the database was restored from a copy; devices count as succeeded
        only once they were heard of since.
        """
        self._loaded = True
        if restored_at is not None:
            self._restored_at = restored_at.timestamp()
        self._recount()

    def changed(self, record: DeviceRecord) -> None:
        """Something of the device changed, or it is new; or it is `dormant` and was heard of."""
        device = record.device
        space = self._spaces.get(device.namespace)
        if space is None:
            space = self._spaces[device.namespace] = _Space()
        entry = space.entries.get(device.id)
        if entry is None or entry.record is not record:
            if entry is not None:
                self._withdraw(space, entry)
            entry = space.entries[device.id] = _Entry(record)
        if self._loaded:
            self._refresh(device.namespace, space)
            self._weigh(device.namespace, space, entry)

    def forgotten(self, record: DeviceRecord) -> None:
        """The device is not known any more."""
        namespace = record.device.namespace
        space = self._spaces.get(namespace)
        entry = space.entries.get(record.device.id) if space is not None else None
        if space is None or entry is None or entry.record is not record:
            return
        self._withdraw(space, entry)
        del space.entries[record.device.id]
        if not space.entries and not space.rules.policies:
            del self._spaces[namespace]
            self._unsettled.pop(namespace, None)

    def tripped_elsewhere(self, namespace: str, rollout: str, trip: Trip) -> None:
        """A trip that the database holds."""
        self.breakers.learn(namespace, rollout, trip)

    def subscribe(self, watcher: Callable[[str, str], None]) -> None:
        """Has `watcher(namespace, rollout)` called when a breaker opens, within the call."""
        self.breakers.subscribe(watcher)

    # What is asked

    @property
    def generation(self) -> int:
        """Differs after each change of what `trip` and `tripped` say."""
        return self.breakers.generation

    @property
    def settled(self) -> bool:
        """Whether every device is counted by the rules in use."""
        return self._loaded and not self._unsettled

    def counts(self, namespace: str, name: str) -> RolloutCounts | None:
        """The counts of the rollout; None: not known (yet)."""
        space = self._spaces.get(namespace)
        if not self._loaded or space is None or self._policies.policy(namespace, name) is None:
            return None
        if space.waiting is not None:
            return space.before.get(name)
        return self._counts(space, name)

    def trip(self, namespace: str, name: str) -> Trip | None:
        """Why the breaker of the rollout's run is open; None: it is not."""
        policy = self._policies.policy(namespace, name)
        return None if policy is None else self.breakers.trip(policy)

    def tripped(self, namespace: str) -> Set[str]:
        """The rollouts of the namespace whose run's breaker is open."""
        rules = self._policies.rules(namespace)
        known = self._tripped.get(namespace)
        if known is None or known[:2] != (self.generation, rules.generation):
            names = self.breakers.tripped(rules.policies)
            if not rules.policies:
                return names
            known = self._tripped[namespace] = (self.generation, rules.generation, names)
        return known[2]

    def slots(self, namespace: str) -> "Slots":
        """How many devices the rings with `maxConcurrent` may start."""
        space = self._spaces.get(namespace)
        if space is None or not self._loaded:
            return _NO_SLOTS
        self._refresh(namespace, space)
        return space.slots

    def weight(self, record: DeviceRecord) -> Weight | None:
        """What the device adds now; None: not known (yet)."""
        space = self._spaces.get(record.device.namespace)
        entry = space.entries.get(record.device.id) if space is not None else None
        if space is None or entry is None or entry.round != space.round:
            return None
        return entry.weight

    def counted(self, record: DeviceRecord) -> bool:
        """Whether the device counts: a group names it exactly, or it polled over `scan_seconds`.

        Whatever else asks once may be a scanner that tries ids.
        """
        rules = self._policies.rules(record.device.namespace)
        return rules.groups.names_exactly(record.device.id) or self._polled_over(record)

    def weigh(
        self, record: DeviceRecord, placement: Placement, rules: Rules
    ) -> tuple[Weight, float]:
        """What the device adds by these rules, computed anew, and when time alone changes that.

        The time is in seconds since 1970.
        """
        at = self._clock()
        now = datetime.fromtimestamp(at, UTC)
        shares: list[tuple[str, Share]] = []
        due = _NEVER
        matched = placement.matched
        waits = False
        own = ""
        if isinstance(matched, Match):
            policy = matched.policy
            own = policy.name
            assessed = self._assess(policy, record, now)
            heard = record.last_seen >= self._restored_at
            seen = datetime.fromtimestamp(record.last_seen, UTC)
            share = member_share(
                policy, matched.ring, record.device, assessed, seen=seen, heard=heard, now=now
            )
            due = _until(assessed)
            inactive = record.last_seen + policy.active_within
            if inactive >= at:
                # At that very time it still is active.
                due = min(due, inactive + 1e-3)
            else:
                waits = True
            waits = waits or not heard
            if share is not None:
                shares.append((own, share))
        for name in record.attempts:
            if name == own:
                continue
            lost = _policy(rules, name)
            if lost is None:
                continue
            assessed = self._assess(lost, record, now)
            due = min(due, _until(assessed))
            outcome = outcome_share(lost, assessed)
            if outcome is not None:
                shares.append((name, outcome))
        counted = rules.groups.names_exactly(record.device.id) or self._polled_over(record)
        if not counted:
            # Its polls are of no interest before one of them can make it count.
            enough = _NEVER if record.first_poll is None else record.first_poll + self.scan_seconds
            if record.first_poll is not None and at < enough:
                due = min(due, enough)
            else:
                waits = True
        return Weight(tuple(shares), placement.shadowed, counted, waits), due

    # Inside

    def _assess(self, policy: Policy, record: DeviceRecord, now: datetime) -> Assessment:
        known = record.attempts.get(policy.name)
        if not known:
            return _NO_ATTEMPT
        judged_by = terms(policy, self._spans, reports=record.reports)
        return assess(policy, known, judged_by, now)

    def _polled_over(self, record: DeviceRecord) -> bool:
        first, last = record.first_poll, record.last_poll
        return first is not None and last is not None and last - first >= self.scan_seconds

    def _policies_changed(self) -> None:
        self._tripped.clear()
        if not self._loaded:
            return
        for policy in self._policies.policies():
            self._spaces.setdefault(policy.namespace, _Space())
        for namespace, space in list(self._spaces.items()):
            self._refresh(namespace, space)
            if not space.entries and not space.rules.policies:
                del self._spaces[namespace]
                self._unsettled.pop(namespace, None)
        self.work(_AT_ONCE_SECONDS)

    def _recount(self) -> None:
        """Counts all devices anew."""
        for policy in self._policies.policies():
            self._spaces.setdefault(policy.namespace, _Space())
        for namespace, space in self._spaces.items():
            self._begin(namespace, space, self._policies.rules(namespace))
        self.work(_AT_ONCE_SECONDS)

    def _refresh(self, namespace: str, space: "_Space") -> None:
        rules = self._policies.rules(namespace)
        if rules is not space.rules:
            self._begin(namespace, space, rules)

    def _begin(self, namespace: str, space: "_Space", rules: Rules) -> None:
        if space.waiting is None:
            space.before = {name: self._counts(space, name) for name in space.policies}
            space.waiting_since = self._monotonic()
        elif self._monotonic() - space.waiting_since > _PATIENCE_SECONDS:
            # Rules that change all the time must not keep breakers from being looked at: what was
            # begun is completed first.
            return
        space.use(placer(rules))
        self._unsettled[namespace] = None
        self._wake.set()

    def _counts(self, space: "_Space", name: str) -> RolloutCounts:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return space.tallies[name].counts(space.policies[name], now, shadowed=space.shadowed[name])

    def _weigh(self, namespace: str, space: "_Space", entry: "_Entry") -> None:
        record = entry.record
        placement = record.place
        if placement is None or not placement.holds(record.device, space.rules):
            placement = record.place = space.compiled.place(record.device)
        weight, due = self.weigh(record, placement, space.rules)
        weight = space.shared(weight)
        before = entry.weight if entry.round == space.round else _NOTHING
        entry.weight, entry.round = weight, space.round
        record.dormant = weight.waits
        self._calendar.enter(entry, due)
        if weight is before:
            return
        outcomes = space.add(before, -1) | space.add(weight, 1)
        if outcomes and space.waiting is None:
            for name in outcomes:
                self._judge(namespace, space, name)

    def _withdraw(self, space: "_Space", entry: "_Entry") -> None:
        if entry.round == space.round:
            space.add(entry.weight, -1)
        entry.round = -1
        entry.gone = True
        self._calendar.enter(entry, _NEVER)

    def _judge(self, namespace: str, space: "_Space", name: str) -> None:
        """Opens the breaker where it is to be: called whenever an outcome of the run changed."""
        policy = space.policies[name]
        if not space.failed[name] or policy.tripped or self.breakers.trip(policy) is not None:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        opened = trip(policy, self._counts(space, name), now)
        if opened is not None:
            self.breakers.open(namespace, name, opened)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait = self.work(SLICE_SECONDS)
            except Exception:  # a fault of ours: the other devices count on
                log.exception("a device could not be counted")
                wait = 0.0
            if wait <= 0:
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait, _LONGEST_WAIT)):
                    await self._wake.wait()

    def work(self, seconds: float) -> float:
        """Works for `seconds`; returns after how many there is more to do (0: at once)."""
        if not self._loaded:
            return _NEVER
        began = self._monotonic()
        deadline = began + seconds
        now = self._clock()
        if now < self._newest - _BACK_SECONDS:
            log.warning("the clock went back: all devices are counted anew")
            for namespace, space in self._spaces.items():
                self._begin(namespace, space, self._policies.rules(namespace))
            self._newest = now
        self._newest = max(now, self._newest)
        done = self._work_unsettled(deadline) and self._work_due(now, deadline)
        self.longest_slice = max(self.longest_slice, self._monotonic() - began)
        return self._calendar.seconds(self._clock()) if done else 0.0

    def _work_unsettled(self, deadline: float) -> bool:
        """Whether all devices are counted."""
        while self._unsettled:
            namespace = next(iter(self._unsettled))
            space = self._spaces[namespace]
            assert space.waiting is not None
            for entry in space.waiting:
                if entry.round != space.round and not entry.gone:
                    self._weigh(namespace, space, entry)
                    if self._monotonic() >= deadline:
                        return False
            space.waiting = None
            space.before = {}
            del self._unsettled[namespace]
            for name in space.policies:
                self._judge(namespace, space, name)
            self._refresh(namespace, space)
        return True

    def _work_due(self, now: float, deadline: float) -> bool:
        """Whether no device is due any more."""
        for entry in self._calendar.due(now):
            namespace = entry.record.device.namespace
            space = self._spaces[namespace]
            self._refresh(namespace, space)
            self._weigh(namespace, space, entry)
            if self._monotonic() >= deadline:
                return False
        return not self._unsettled


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


class _Entry:
    """A device and what it adds; that is part of the counts if `round` is that of its space."""

    __slots__ = ("gone", "record", "round", "tick", "weight")

    def __init__(self, record: DeviceRecord) -> None:
        self.record = record
        self.weight = _NOTHING
        self.round = -1
        self.tick: int | None = None
        self.gone = False


class _Space:
    """One namespace. While devices are `waiting`, `before` holds the counts from before."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self.round = 0
        self.compiled = _NO_RULES
        self.policies: dict[str, Policy] = {}
        self.tallies: dict[str, Tally] = {}
        self.shadowed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.slots = _NO_SLOTS
        self.waiting: Iterator[_Entry] | None = None
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
            if not weight.counted:
                continue
            tally = self.tallies[name]
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


class _Calendar:
    """Which devices are due when: each at most once, so that it is as large as the fleet."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[_Entry, None]] = {}
        self._ticks: list[int] = []

    def enter(self, entry: _Entry, due: float) -> None:
        """The entry is due then, and at no other time."""
        tick = None if due == _NEVER else math.ceil(due * _TICKS)
        if tick == entry.tick:
            return
        if entry.tick is not None:
            entries = self._entries[entry.tick]
            del entries[entry]
            if not entries:
                del self._entries[entry.tick]
        entry.tick = tick
        if tick is None:
            return
        if tick not in self._entries:
            self._entries[tick] = {}
            heapq.heappush(self._ticks, tick)
            if len(self._ticks) > 2 * len(self._entries) + _SURPLUS_TICKS:
                self._ticks = sorted(self._entries)
        self._entries[tick][entry] = None

    def due(self, now: float) -> Iterator[_Entry]:
        """Takes out, one by one, what is due."""
        while self._ticks and self._ticks[0] <= now * _TICKS:
            entries = self._entries.get(self._ticks[0])
            if not entries:
                self._entries.pop(heapq.heappop(self._ticks), None)
                continue
            entry, _ = entries.popitem()
            entry.tick = None
            yield entry

    def seconds(self, now: float) -> float:
        """Until the next one is due."""
        return max(0.001, self._ticks[0] / _TICKS - now) if self._ticks else _NEVER


def _until(assessed: Assessment) -> float:
    where = assessed.standing
    return where.until.timestamp() if where is not None and where.until is not None else _NEVER


def _policy(rules: Rules, name: str) -> Policy | None:
    return next((policy for policy in rules.policies if policy.name == name), None)


_NOTHING = Weight()
_NO_ATTEMPT = Assessment()
_NO_RULES = Placer(Rules(-2, (), Groups()))
_NO_SLOTS = Slots({}, Counter())
