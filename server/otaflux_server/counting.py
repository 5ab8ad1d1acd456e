"""How far every rollout's devices are, at any time: counts that follow each change.

Every known device adds its `Share` to the rollouts that it concerns. A share changes when the
server learns something of the device (`changed`), when time alone changes it, and when policies
or groups change: then all devices of the namespace are placed and counted anew, little by
little. Until that is done, the counts are those from before, under the revision from before.
"""

import asyncio
import time
from collections.abc import Callable, Set
from datetime import UTC, datetime
from typing import Self

import structlog

from otaflux_policy.assessing import Spans
from otaflux_policy.counts import (
    RolloutCounts,
    Trip,
    trip,
)
from otaflux_server.background import kept, set_within
from otaflux_server.breakers import Breakers, Trips
from otaflux_server.calendars import NEVER, Calendar
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import placer
from otaflux_server.policies import PolicyStore
from otaflux_server.rules import Rules
from otaflux_server.slices import SLICE_SECONDS
from otaflux_server.spaces import NO_SLOTS, NOTHING, Entry, Slots, Space, Weight
from otaflux_server.weighing import Weigher

log = structlog.get_logger(__name__)

_AT_ONCE_SECONDS = 0.002
"""So much is done within the change that calls for it: all of a small fleet."""
_LONGEST_WAIT = 60.0
_BACK_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
"""So long rules that change again have devices counted anew from the start: the breaker is to look
at counts that are a few seconds old at most."""


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
        """`scan_seconds`: see `Weigher`. `store` keeps trips; None: they end with the process."""
        self.breakers = Breakers(store)
        self._policies = policies
        self.weigher = Weigher(spans or Spans(), scan_seconds, clock)
        self._clock = clock
        self._monotonic = monotonic
        self._loaded = False
        self._spaces: dict[str, Space] = {}
        self._unsettled: dict[str, None] = {}
        self._calendar = Calendar()
        self._tripped: dict[str, tuple[int, int, Set[str]]] = {}
        self._wake = asyncio.Event()
        self._newest = clock()
        self._tasks: list[asyncio.Task[None]] = []
        policies.subscribe(self._policies_changed)

    async def __aenter__(self) -> Self:
        self._tasks = [
            kept("counting", self._run),
            kept("breakers", self.breakers.run),
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
            self.weigher.restored_at = restored_at.timestamp()
        self._recount()

    def changed(self, record: DeviceRecord) -> None:
        """Something of the device changed, or it is new; or it is `dormant` and was heard of."""
        device = record.device
        space = self._spaces.get(device.namespace)
        if space is None:
            space = self._spaces[device.namespace] = Space()
        entry = space.entries.get(device.id)
        if entry is None or entry.record is not record:
            if entry is not None:
                self._withdraw(space, entry)
            entry = space.entries[device.id] = Entry(record)
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

    def slots(self, namespace: str) -> Slots:
        """How many devices the rings with `maxConcurrent` may start."""
        space = self._spaces.get(namespace)
        if space is None or not self._loaded:
            return NO_SLOTS
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
        """Whether the device counts (`Weigher.counted`)."""
        return self.weigher.counted(record, self._policies.rules(record.device.namespace))

    # Inside

    def _policies_changed(self) -> None:
        self._tripped.clear()
        if not self._loaded:
            return
        for policy in self._policies.policies():
            self._spaces.setdefault(policy.namespace, Space())
        for namespace, space in list(self._spaces.items()):
            self._refresh(namespace, space)
            if not space.entries and not space.rules.policies:
                del self._spaces[namespace]
                self._unsettled.pop(namespace, None)
        self._work_on(_AT_ONCE_SECONDS)

    def _recount(self) -> None:
        """Counts all devices anew."""
        for policy in self._policies.policies():
            self._spaces.setdefault(policy.namespace, Space())
        for namespace, space in self._spaces.items():
            self._begin(namespace, space, self._policies.rules(namespace))
        self._work_on(_AT_ONCE_SECONDS)

    def _refresh(self, namespace: str, space: Space) -> None:
        rules = self._policies.rules(namespace)
        if rules is not space.rules:
            self._begin(namespace, space, rules)

    def _begin(self, namespace: str, space: Space, rules: Rules) -> None:
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

    def _counts(self, space: Space, name: str) -> RolloutCounts:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return space.tallies[name].counts(space.policies[name], now, shadowed=space.shadowed[name])

    def _weigh(self, namespace: str, space: Space, entry: Entry) -> None:
        record = entry.record
        placement = record.place
        if placement is None or not placement.holds(record.device, space.rules):
            placement = record.place = space.compiled.place(record.device)
        weight, due = self.weigher.weigh(record, placement, space.rules)
        weight = space.shared(weight)
        before = entry.weight if entry.round == space.round else NOTHING
        entry.weight, entry.round = weight, space.round
        record.dormant = weight.waits
        self._calendar.enter(entry, due)
        if weight is before:
            return
        outcomes = space.add(before, -1) | space.add(weight, 1)
        if outcomes and space.waiting is None:
            for name in outcomes:
                self._judge(namespace, space, name)

    def _withdraw(self, space: Space, entry: Entry) -> None:
        if entry.round == space.round:
            space.add(entry.weight, -1)
        entry.round = -1
        entry.gone = True
        self._calendar.enter(entry, NEVER)

    def _judge(self, namespace: str, space: Space, name: str) -> None:
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
            wait = self._work_on(SLICE_SECONDS)
            if wait <= 0:
                await asyncio.sleep(0)
                continue
            await set_within(self._wake, min(wait, _LONGEST_WAIT))

    def _work_on(self, seconds: float) -> float:
        """`work`; a fault of ours keeps neither other devices from being counted nor the caller."""
        try:
            return self.work(seconds)
        except Exception:
            log.exception("a device could not be counted")
            return 0.0

    def work(self, seconds: float) -> float:
        """Works for `seconds`; returns after how many there is more to do (0: at once)."""
        if not self._loaded:
            return NEVER
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
