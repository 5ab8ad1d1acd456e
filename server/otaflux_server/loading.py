"""From the database into memory: all of it at the start, then what other servers record."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Protocol

import structlog

from otaflux_policy.assessing import relevant
from otaflux_policy.attempts import AttemptRef
from otaflux_policy.counts import Trip
from otaflux_server.background import set_within
from otaflux_server.devices import DeviceRecord, Devices
from otaflux_server.evidence.databases import StoreUnavailable, migrate
from otaflux_server.evidence.records import Changes, Mark, RunKey, StoredAttempt, StoredDevice
from otaflux_server.evidence.stores import Store
from otaflux_server.learning import Learning
from otaflux_server.policies import PolicyStore

log = structlog.get_logger(__name__)

_PAGE = 250
"""Rows that are taken up at one time: polls wait for so many."""
_FIRST_PAGE = 2000
"""The same, while all polls get `Hold` anyway."""
_RETRY_SECONDS = 0.2
_LONGEST_RETRY = 5.0


class Follows(Protocol):
    """Who is told (`Counting`)."""

    def changed(self, record: DeviceRecord) -> None:
        """The device is known, or more of it."""

    def tripped_elsewhere(self, namespace: str, rollout: str, trip: Trip) -> None:
        """A trip that the database holds."""


class Loader:
    """Loads the database at `url` into memory; `loaded` is called when that is done, once.

    `failure` says why the database cannot be read now. With `shared`, other servers write to it:
    what they do is read every `refresh_seconds`.
    """

    def __init__(
        self,
        url: str,
        store: Store,
        devices: Devices,
        learning: Learning,
        counting: Follows,
        policies: PolicyStore,
        loaded: Callable[[datetime | None], None],
        *,
        shared: bool,
        refresh_seconds: float,
    ) -> None:
        self.is_loaded = False
        self.failure: str | None = None
        self.tried = asyncio.Event()
        """Set once the database was read, or could not be."""
        self._url = url
        self._store = store
        self._devices = devices
        self._learning = learning
        self._counting = counting
        self._policies = policies
        self._loaded = loaded
        self._shared = shared
        self._refresh_seconds = refresh_seconds
        self._mark: Mark | None = None
        self._changed = asyncio.Event()
        policies.subscribe(self._changed.set)

    async def run(self) -> None:
        """Until cancelled."""
        await self._insist(self._load)
        while True:
            await set_within(self._changed, self._refresh_seconds if self._shared else None)
            self._changed.clear()
            await self._insist(self._refresh)

    async def _insist(self, read: Callable[[], Awaitable[None]]) -> None:
        """Reads, again and again until the database can be read."""
        wait = _RETRY_SECONDS
        while True:
            try:
                await read()
            except Exception as error:
                known = isinstance(error, StoreUnavailable)
                why = str(error) if known else f"it failed ({type(error).__name__})"
                if self.failure is None:
                    log.error(
                        "the evidence database cannot be read", reason=why, exc_info=not known
                    )
                self.failure = why
                self.tried.set()
            else:
                if self.failure is not None:
                    log.info("the evidence database is read again")
                self.failure = None
                self.tried.set()
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_RETRY)

    async def _load(self) -> None:
        began = time.monotonic()
        await migrate(self._url)
        await self._read_changes(_FIRST_PAGE)
        restored_at = await self._store.restored_at()
        self.is_loaded = True
        self._loaded(restored_at)
        seconds = round(time.monotonic() - began, 3)
        log.info("evidence loaded", devices=len(self._devices), seconds=seconds)

    async def _refresh(self) -> None:
        left_out = self._learning.left_out
        for run in self._wanted_runs():
            # First, because policies may change meanwhile: then it is left out again.
            del left_out[run]
            try:
                async for attempt in self._store.attempts(run, page=_PAGE):
                    self._take_attempt(attempt)
            except BaseException:
                left_out[run] = None
                raise
        if self._shared:
            await self._read_changes(_PAGE)

    async def _read_changes(self, page: int) -> None:
        while True:
            changes = await self._store.changed(self._mark, page)
            self._take(changes)
            self._mark = changes.mark
            if changes.complete:
                return
            await asyncio.sleep(0)

    def _wanted_runs(self) -> list[RunKey]:
        """Runs that were left out and that a policy looks back at."""
        if not self._learning.left_out:
            return []
        wanted = {
            RunKey(policy.namespace, policy.name, ref.run)
            for policy in self._policies.policies()
            for ref in relevant(policy)
        }
        return [run for run in self._learning.left_out if run in wanted]

    def _take(self, changes: Changes) -> None:
        self._take_devices(changes.devices)
        for attempt in changes.attempts:
            self._take_attempt(attempt)
        for namespace, rollout, trip in changes.trips:
            self._counting.tripped_elsewhere(namespace, rollout, trip)

    def _take_devices(self, devices: Iterable[StoredDevice]) -> None:
        for key, facts in devices:
            known = self._devices.get(*key)
            record = known or self._devices.take_up(*key, facts.last_seen.timestamp())
            if record is None:
                continue
            self._learning.told_of(record, facts)
            if known is None:
                self._counting.changed(record)

    def _take_attempt(self, attempt: StoredAttempt) -> None:
        key, facts = attempt
        record = self._devices.get(key.namespace, key.device)
        if record is None:
            # Its first contact was lost, the offer was not.
            heard = facts.last_offer or facts.last_poll or facts.target_last or facts.last_request
            seen = heard.timestamp() if heard is not None else 0.0
            record = self._devices.take_up(key.namespace, key.device, seen)
            if record is None:
                return
            self._counting.changed(record)
        self._learning.told(record, key.rollout, AttemptRef(key.run, key.digest), facts)
