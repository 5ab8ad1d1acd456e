"""A queue of keys: each at most once, never taken twice at a time, perhaps only due later."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Hashable
from random import random
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_SLACK = 64


class KeyedQueue(Generic[K]):
    """Holds each key once, with the loop time at which it is due; the earliest wins.

    A key that is put while it is being worked on comes again once that work is done. `capacity`
    bounds the keys that wait: beyond it a key is not taken in, and `overflowed` says so until it
    is read, so that the owner can look at everything again.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._active: set[K] = set()
        self._overflowed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    @property
    def overflowed(self) -> bool:
        """Whether keys were lost since this was read last."""
        overflowed, self._overflowed = self._overflowed, False
        return overflowed

    def waiting(self) -> int:
        """How many keys are due now and wait for a worker."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())

    def put(self, key: K, after: float = 0.0) -> None:
        """Makes `key` due in `after` seconds, unless it is due earlier anyway."""
        due = asyncio.get_running_loop().time() + after
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        if known is None and len(self._due) >= self._capacity:
            self._overflowed = True
            return
        self._due[key] = due
        self._push(due, key)
        self._changed.set()

    def drop(self, key: K) -> None:
        """Forgets that `key` is due, if it is."""
        self._due.pop(key, None)

    async def take(self) -> K:
        """The key that has been due for longest; `done` has to be called for it."""
        while True:
            self._changed.clear()
            wait = self._head()
            if wait is not None and wait <= 0:
                _, _, key = heapq.heappop(self._heap)
                del self._due[key]
                self._active.add(key)
                self._changed.set()
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: K) -> None:
        """The work on a key that was taken has ended."""
        self._active.discard(key)
        if key in self._due:
            self._push(self._due[key], key)
        self._changed.set()

    def _push(self, due: float, key: K) -> None:
        self._count += 1
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            # Overtaken entries leave by themselves only once they are due, which may be in hours.
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due, self._count, key))

    def _head(self) -> float | None:
        # Entries that were overtaken, dropped, or whose key is being worked on are stale;
        # `done` pushes the last kind again.
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and key not in self._active:
                return due - asyncio.get_running_loop().time()
            heapq.heappop(self._heap)
        return None


class Backoff(Generic[K]):
    """Growing delays per key: doubled from `first` to `most` seconds, half of it at random."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._failures: dict[K, int] = {}

    def next(self, key: K) -> float:
        """The delay after one more failure."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        whole = min(self._most, self._first * 2.0 ** min(failures, 30))
        return whole * (0.5 + random() / 2)

    def reset(self, key: K) -> None:
        """It went well."""
        self._failures.pop(key, None)


async def work(queue: KeyedQueue[K], handle: Callable[[K], Awaitable[None]], workers: int) -> None:
    """Handles keys as they fall due, `workers` at a time, until cancelled.

    `handle` must not raise: what it raises ends all workers.
    """

    async def worker() -> None:
        while True:
            key = await queue.take()
            try:
                await handle(key)
            finally:
                queue.done(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
