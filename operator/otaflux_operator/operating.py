"""The operator without Kubernetes: a queue of objects, workers, and what they work with."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from structlog import get_logger

from otaflux_operator import metrics
from otaflux_operator.answers import Answers
from otaflux_operator.epochs import Epochs
from otaflux_operator.grouping import Groups
from otaflux_operator.handover import Handover
from otaflux_operator.logs import place
from otaflux_operator.ports import Conflict, Key, Kind, Ports, Unavailable
from otaflux_operator.queues import Backoff, KeyedQueue, work
from otaflux_operator.reconciling import Rollouts
from otaflux_operator.resolving import Resolver
from otaflux_operator.timing import Clock, Timing, current

log = get_logger(__name__)

Subject = TypeVar("Subject", Key, str)
_SWEEP = "sweep of everything"


class Operator:
    """Reconciles whatever is marked; at its start, and what was missed, by itself.

    It knows the world only through `ports`, and the time by `clock`. `epochs` are those of what it
    publishes (None: all is of epoch 0).
    """

    def __init__(
        self,
        ports: Ports,
        timing: Timing | None = None,
        *,
        epochs: Epochs | None = None,
        clock: Clock = current,
    ) -> None:
        self._ports = ports
        self._timing = timing or Timing()
        self._queue: KeyedQueue[Key] = KeyedQueue()
        self._namespaces: KeyedQueue[str] = KeyedQueue()
        self._sweeps: KeyedQueue[str] = KeyedQueue()
        self._handover = Handover(ports.entries, ports.publications)
        self._resolver = Resolver(
            ports.secrets, ports.sources, self._handover, self.mark, self._timing
        )
        self._answers = Answers(ports.servers, self.mark, self._timing, clock)
        epochs = epochs or Epochs()
        self._rollouts = Rollouts(
            ports, self._resolver, self._answers, self._queue.put, self._timing, epochs, clock
        )
        # A namespace is compared once for a burst of changes.
        self._groups = Groups(
            ports, lambda namespace: self._namespaces.put(namespace, 0.1), epochs, clock
        )
        epochs.subscribe(self.mark_everything)
        self._backoff: Backoff[Key | str] = Backoff(
            self._timing.error_first, self._timing.error_most
        )
        self._told: dict[Key | str, str] = {}
        self._everything = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self.trouble = ""
        """Why the last sweep failed; empty where it did not."""
        self.swept_at: float | None = None
        """When all that exists was last compared with all that is published (`time.monotonic`)."""

    def mark(self, key: Key) -> None:
        """The object was created, changed or deleted, or may have been: look at it."""
        self._queue.put(key)

    def mark_everything(self) -> None:
        """Something changed that concerns every object: look at all of them."""
        self._everything = True
        self._sweeps.put(_SWEEP)

    def mark_from_thread(self, key: Key) -> None:
        """As `mark`, from another thread than that of the loop; lost before and after `run`."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
                self._loop.call_soon_threadsafe(self.mark, key)

    async def run(self) -> None:
        """Works until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._sweeps.put(_SWEEP)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(self._queue, self._reconcile, self._timing.workers))
                group.create_task(work(self._namespaces, self._compare, 1))
                group.create_task(self._resolver.run())
                group.create_task(self._answers.run())
                group.create_task(work(self._sweeps, self._guarded_sweep, 1))
        finally:
            self._loop = None

    async def _reconcile(self, key: Key) -> None:
        metrics.QUEUE_DEPTH.set(self._queue.waiting())
        started = time.monotonic()
        reconcile = (self._rollouts if key.kind is Kind.ROLLOUT else self._groups).reconcile
        result = await self._guarded(key, reconcile, self._queue)
        metrics.RECONCILES.labels(key.kind, result).inc()
        metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - started)

    async def _compare(self, namespace: str) -> None:
        await self._guarded(namespace, self._groups.compare, self._namespaces)

    async def _guarded_sweep(self, sweep: str) -> None:
        await self._guarded(sweep, self._sweep, self._sweeps)

    async def _guarded(
        self,
        subject: Subject,
        action: Callable[[Subject], Awaitable[None]],
        queue: KeyedQueue[Subject],
    ) -> str:
        """Runs it; whatever goes wrong is tried again. The result in a word."""
        try:
            await action(subject)
        except Conflict:
            queue.put(subject, self._backoff.next(subject) / 10)
            return "conflict"
        except Unavailable as error:
            self._tell(subject, str(error))
            queue.put(subject, self._backoff.next(subject))
            return "unavailable"
        except Exception as error:
            # A mistake of ours must stop neither the others nor this one for ever. Its text may
            # hold anything, so only where it was made is shown.
            log.error(
                "reconciliation failed",
                object=str(subject),
                error=type(error).__name__,
                where=place(error.__traceback__),
            )
            queue.put(subject, self._backoff.next(subject))
            return "error"
        self._backoff.reset(subject)
        self._told.pop(subject, None)
        return "done"

    def _tell(self, subject: Key | str, why: str) -> None:
        """Once per object and reason, as it is tried again and again; each time for a sweep."""
        if subject == _SWEEP:
            self.trouble = why
        elif self._told.get(subject) == why:
            return
        else:
            self._told[subject] = why
        log.warning("not reconciled", object=str(subject), why=why)

    async def _sweep(self, _: str) -> None:
        """Everything at the start; then, and after lost marks, what is orphaned or missing."""
        # Before they are listed: what is marked from now on is listed by another sweep.
        everything = self._queue.overflowed or self._everything
        self._everything = False
        try:
            await self._look(everything)
        except BaseException:
            self._everything = self._everything or everything
            raise
        self._sweeps.put(_SWEEP, self._timing.sweep_every)

    async def _look(self, everything: bool) -> None:
        existing = await self._ports.resources.keys()
        published = await self._ports.publications.keys()
        for key in sorted(existing | published if everything else existing ^ published):
            self.mark(key)
        if self.swept_at is not None:
            # Not at the start: what is in use is known once everything was looked at.
            await self._handover.prune(self._resolver.entries)
        self.swept_at, self.trouble = time.monotonic(), ""
