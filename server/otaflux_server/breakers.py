"""Trips: which runs' breakers are open: latched here at once, in the store soon after."""

import asyncio
from collections.abc import Callable, Iterable, Set
from typing import Protocol

import structlog

from otaflux_policy.contract import Policy
from otaflux_policy.counts import Trip
from otaflux_server.evidence.databases import StoreUnavailable

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
_LONGEST_RETRY = 30.0
_MAX_TRIPS = 10_000

_RunKey = tuple[str, str, int]
"""Namespace, name and run."""


class Trips(Protocol):
    """Where trips are kept (`Store`)."""

    async def trip(self, namespace: str, rollout: str, trip: Trip) -> Trip:
        """Keeps the first of the run, and returns it. Raises StoreUnavailable."""


class Breakers:
    """One trip for each run: replicas may be a run ahead of each other.

    `generation` grows whenever the answer for any rollout changes, save by its policy.
    """

    def __init__(self, store: Trips | None = None) -> None:
        self.store = store
        self.generation = 0
        self._trips: dict[_RunKey, Trip] = {}
        self._unwritten: dict[_RunKey, Trip] = {}
        self._watchers: list[Callable[[str, str], None]] = []
        self._wake = asyncio.Event()

    @property
    def unwritten(self) -> int:
        """Trips that are not in the database yet."""
        return len(self._unwritten)

    def subscribe(self, watcher: Callable[[str, str], None]) -> None:
        """Has `watcher(namespace, rollout)` called when a breaker opens, within the call."""
        self._watchers.append(watcher)

    def trip(self, policy: Policy) -> Trip | None:
        """Why the breaker of the policy's run is open; None: it is not, as far as known here."""
        return self._trips.get((policy.namespace, policy.name, policy.run))

    def tripped(self, policies: Iterable[Policy]) -> Set[str]:
        """The names of those whose run's breaker is open."""
        return frozenset(
            policy.name for policy in policies if policy.tripped or self.trip(policy) is not None
        )

    def open(self, namespace: str, rollout: str, trip: Trip) -> None:
        """The breaker opens by what is counted here."""
        key = (namespace, rollout, trip.run)
        if key in self._trips:
            return
        self._latch(key, trip)
        if self.store is not None:
            self._unwritten[key] = trip
            self._wake.set()
        log.warning(
            "breaker open",
            namespace=namespace,
            rollout=rollout,
            run=trip.run,
            ring=trip.ring,
            failed=trip.failed,
            updated=trip.updated,
        )
        self._announce(namespace, rollout)

    def learn(self, namespace: str, rollout: str, trip: Trip) -> None:
        """A trip from the database: that which all replicas see."""
        key = (namespace, rollout, trip.run)
        known = self._trips.get(key)
        if known == trip:
            return
        self._latch(key, trip)
        if known is None:
            self._announce(namespace, rollout)

    def _latch(self, key: _RunKey, trip: Trip) -> None:
        self._trips[key] = trip
        if len(self._trips) > _MAX_TRIPS:
            del self._trips[next(iter(self._trips))]
        self.generation += 1

    def _announce(self, namespace: str, rollout: str) -> None:
        for watcher in self._watchers:
            watcher(namespace, rollout)

    async def run(self) -> None:
        """Writes what is to be written, until cancelled; again and again while it fails."""
        retry = _RETRY_SECONDS
        while True:
            await self._wake.wait()
            self._wake.clear()
            if await self.write():
                retry = _RETRY_SECONDS
                continue
            await asyncio.sleep(retry)
            retry = min(retry * 2, _LONGEST_RETRY)
            self._wake.set()

    async def write(self) -> bool:
        """Writes all that is not yet written; whether that could be done."""
        if self.store is None:
            return True
        done = True
        for key, trip in list(self._unwritten.items()):
            namespace, rollout, _ = key
            try:
                self.learn(namespace, rollout, await self.store.trip(namespace, rollout, trip))
            except StoreUnavailable as error:
                log.warning("a trip waits for the evidence database", reason=str(error))
                return False
            except Exception:  # a fault of ours: the breaker is open all the same
                log.exception("a trip could not be written")
                done = False
                continue
            self._unwritten.pop(key, None)
        return done
