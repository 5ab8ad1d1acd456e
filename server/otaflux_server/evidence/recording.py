"""Write-behind: facts wait in memory, joined, and are merged in batches."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, Self

import structlog

from otaflux_policy.facts import Facts
from otaflux_server.background import set_within
from otaflux_server.evidence.databases import FactsRefused, StoreUnavailable
from otaflux_server.evidence.records import AttemptKey, Batch, DeviceFacts, DeviceKey

log = structlog.get_logger(__name__)

_LONGEST_RETRY = 30.0


class Merges(Protocol):
    """Where facts go (`Store`)."""

    async def merge(self, batch: Batch) -> None:
        """Raises StoreUnavailable, FactsRefused."""


@dataclass(slots=True)
class Counters:
    """Since the start. `dropped`: facts that found no room; `refused`: that no database takes.

    `last_write`: when facts were written last, in seconds since 1970 (0: never).
    """

    written: int = 0
    dropped: int = 0
    refused: int = 0
    failures: int = 0
    last_write: float = 0.0


class Recorder:
    """`async with Recorder(store) as recorder:`; what is recorded is written at the latest then.

    Recording never waits and never raises. Facts are merged every `interval` seconds, or as soon
    as `rows` wait. While the database cannot be used they are kept, up to `capacity` attempts and
    as many devices; of further ones nothing is kept, and `counters.dropped` grows. What is new of
    a device only by its times is written once in `contact_interval` seconds; so is a pin that
    goes on, which a crash may therefore shorten by so much.
    """

    def __init__(
        self,
        store: Merges,
        *,
        interval: float = 1.0,
        rows: int = 1000,
        capacity: int = 100_000,
        contact_interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self.failure: str | None = None
        """Why facts wait, while they do."""
        self._store = store
        self._interval = interval
        self._rows = rows
        self._capacity = capacity
        self._contact_interval = contact_interval
        self._clock = clock
        self._attempts: dict[AttemptKey, Facts] = {}
        self._devices: dict[DeviceKey, DeviceFacts] = {}
        # Contacts that say nothing but that the device was there, until their time comes.
        self._contacts: dict[DeviceKey, DeviceFacts] = {}
        self._written: OrderedDict[DeviceKey, tuple[float, DeviceFacts]] = OrderedDict()
        self._writing = asyncio.Lock()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Attempts and devices with facts that are not written yet."""
        return len(self._attempts) + len(self._devices) + len(self._contacts)

    def record(self, key: AttemptKey, facts: Facts) -> None:
        """Joins the facts to what is known of the attempt."""
        known = self._attempts.get(key)
        if known is None and len(self._attempts) >= self._capacity:
            self.counters.dropped += 1
            return
        self._attempts[key] = facts if known is None else known.join(facts)
        self._note()

    def contact(self, key: DeviceKey, facts: DeviceFacts) -> None:
        """Joins the facts to what is known of the device."""
        known = self._devices.get(key)
        if known is not None:
            self._devices[key] = known.join(facts)
            return
        deferred = self._contacts.pop(key, None)
        if deferred is None and len(self._devices) + len(self._contacts) >= self._capacity:
            self.counters.dropped += 1
            return
        joined = facts if deferred is None else deferred.join(facts)
        at, before = self._written.get(key, (0.0, None))
        if before is None or _news(before, joined) or self._clock() - at >= self._contact_interval:
            self._devices[key] = joined
            self._note()
        else:
            self._contacts[key] = joined

    async def flush(self) -> None:
        """Writes everything that waits; what cannot be written now goes on waiting."""
        self._devices.update(self._contacts)
        self._contacts.clear()
        await self._write_waiting()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="recorder")
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: that could break a transaction off.
        self._closing.set()
        self._full.set()
        if self._task is not None:
            await self._task
        await self.flush()
        if self.waiting:
            log.error("facts were lost: the evidence database cannot be used", rows=self.waiting)

    def _note(self) -> None:
        if len(self._attempts) + len(self._devices) >= self._rows:
            self._full.set()

    async def _run(self) -> None:
        retry = self._interval
        while not self._closing.is_set():
            await set_within(self._full, self._interval)
            self._full.clear()
            self._take_due()
            if await self._write_waiting():
                retry = self._interval
            else:
                # A full buffer would have a lost database tried without a pause.
                await set_within(self._closing, retry)
                retry = min(retry * 2, max(_LONGEST_RETRY, self._interval))

    def _take_due(self) -> None:
        """What was written longest ago comes first; who has nothing to add is forgotten."""
        due = self._clock() - self._contact_interval
        while self._written:
            device, (at, _) = next(iter(self._written.items()))
            if at > due:
                return
            del self._written[device]
            if device in self._contacts:
                self._devices[device] = self._contacts.pop(device)

    async def _write_waiting(self) -> bool:
        """Whether all of it could be written."""
        async with self._writing:
            # What comes in meanwhile is for the next time.
            left = len(self._attempts) + len(self._devices)
            while left > 0 and (self._attempts or self._devices):
                attempts = dict(islice(self._attempts.items(), self._rows))
                devices = dict(islice(self._devices.items(), self._rows - len(attempts)))
                batch = Batch(attempts, devices)
                left -= len(batch)
                if not await self._write(batch):
                    return False
            return True

    async def _write(self, batch: Batch) -> bool:
        try:
            await self._merge(batch)
        except StoreUnavailable as error:
            self.counters.failures += 1
            if self.failure is None:
                log.warning("facts wait", reason=str(error))
            self.failure = str(error)
            return False
        except Exception as error:  # a fault of ours: the facts are kept all the same
            self.counters.failures += 1
            if self.failure is None:
                log.exception("facts wait")
            self.failure = f"facts could not be written ({type(error).__name__})"
            return False
        if self.failure is not None:
            log.info("facts are written again")
        self.failure = None
        # What was joined since waits on, behind the others.
        for attempt, facts in batch.attempts.items():
            known = self._attempts.pop(attempt)
            if known is not facts:
                self._attempts[attempt] = known
        now = self._clock()
        for device, contact in batch.devices.items():
            seen = self._devices.pop(device)
            if seen is not contact:
                self._devices[device] = seen
            before = self._written.pop(device, None)
            self._written[device] = (now, contact if before is None else before[1].join(contact))
        self._take_surplus()
        return True

    def _take_surplus(self) -> None:
        while len(self._written) > self._capacity:
            device, _ = self._written.popitem(last=False)
            if device in self._contacts:
                self._devices[device] = self._contacts.pop(device)

    async def _merge(self, batch: Batch) -> None:
        """Merges the batch, but for what the database never takes."""
        try:
            await self._store.merge(batch)
            self.counters.written += len(batch)
            self.counters.last_write = time.time()
        except FactsRefused as error:
            if len(batch) == 1:
                self.counters.refused += 1
                log.error("facts are refused and dropped", reason=str(error))
                return
            for half in _halves(batch):
                if half:
                    await self._merge(half)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    if batch.attempts and batch.devices:
        return Batch(batch.attempts), Batch(devices=batch.devices)
    attempts, devices = list(batch.attempts.items()), list(batch.devices.items())
    a, d = (len(attempts) + 1) // 2, (len(devices) + 1) // 2
    return (
        Batch(dict(attempts[:a]), dict(devices[:d])),
        Batch(dict(attempts[a:]), dict(devices[d:])),
    )


def _news(before: DeviceFacts, after: DeviceFacts) -> bool:
    """Whether there is more to write than that the device was there again."""

    def lasting(facts: DeviceFacts) -> tuple[object, ...]:
        said, running, pin = facts.said, facts.running, facts.pin
        return (
            None if said is None else (said.model, said.version),
            None if running is None else running.digest,
            facts.reported_first,
            facts.first_poll is None,
            None if pin is None else pin.digest,
        )

    both = before.join(after)
    if lasting(before) != lasting(both):
        return True
    old, new = before.pin, both.pin
    return old is not None and new is not None and new.at >= old.until
