"""What becomes too old is removed, from the database and from memory: both stay bounded."""

import asyncio
import time
from collections.abc import Callable, Set
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from otaflux_policy.facts import Facts
from otaflux_server.devices import DeviceRecord, Devices
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import RunKey
from otaflux_server.policies import PolicyStore
from otaflux_server.slices import Slices

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 3600.0
_RETRY_SECONDS = 60.0


class Prunes(Protocol):
    """The database (`Store`). Every method raises StoreUnavailable."""

    async def prune_runs(self, keep: Set[RunKey], unheard_since: datetime) -> int:
        """Removes runs not to `keep` and last heard of before."""

    async def prune_devices(self, unseen_since: datetime) -> int:
        """Removes some of the devices last seen before; 0: none is left."""

    async def cap_devices(self, most: int) -> int:
        """Removes some of the devices beyond `most`, the longest unseen first; 0: none is left."""


class Retention:
    """Removes devices unseen for `days`, and runs that ended and were not heard of for `days`.

    Runs that a policy in use names stay. The database keeps `most_devices` devices.
    """

    def __init__(
        self,
        store: Prunes,
        policies: PolicyStore,
        devices: Devices,
        changed: Callable[[DeviceRecord], None],
        *,
        days: int = 90,
        most_devices: int = 1_000_000,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is called with each device that lost facts (`Counting.changed`)."""
        self._store = store
        self._policies = policies
        self._devices = devices
        self._changed = changed
        self._span = timedelta(days=days)
        self._most_devices = most_devices
        self._clock = clock
        self._monotonic = monotonic
        self._began = clock() - monotonic()

    async def run(self) -> None:
        """Prunes once an hour, until cancelled."""
        while True:
            try:
                await self.prune()
            except StoreUnavailable as error:
                log.warning("nothing could be pruned", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_INTERVAL_SECONDS)

    async def prune(self) -> None:
        """Removes what is too old now; nothing while the policies are not known.

        Raises:
            StoreUnavailable: the database cannot be used; memory was pruned all the same.
        """
        if not self._policies.ready:
            return
        since = self._now() - self._span
        keep = self._kept()
        await self._prune_memory(keep, since)
        attempts = await self._store.prune_runs(keep, since)
        devices = 0
        while step := await self._store.prune_devices(since):
            devices += step
        while step := await self._store.cap_devices(self._most_devices):
            devices += step
        if attempts or devices:
            log.info("pruned", attempts=attempts, devices=devices)

    def _now(self) -> datetime:
        """A clock that jumps far ahead for a moment must not age everything: an hour proves it."""
        monotonic = self._monotonic()
        began = self._clock() - monotonic
        began, self._began = min(began, self._began), began
        return datetime.fromtimestamp(began + monotonic, UTC)

    def _kept(self) -> frozenset[RunKey]:
        kept = set()
        for policy in self._policies.policies():
            runs = {policy.run} | {gone.run for gone in policy.rollback_from}
            kept |= {RunKey(policy.namespace, policy.name, run) for run in runs}
        return frozenset(kept)

    async def _prune_memory(self, keep: Set[RunKey], since: datetime) -> None:
        unseen = since.timestamp()
        slices = Slices()
        keys = self._devices.keys()
        for key in keys:
            record = self._devices.get(*key)
            if record is None:
                continue
            if record.last_seen < unseen:
                self._devices.forget(record)
            elif _prune_attempts(record, keep, since):
                record.cached = None
                self._changed(record)
            if slices.over:
                await slices.rest()


def _prune_attempts(record: DeviceRecord, keep: Set[RunKey], since: datetime) -> bool:
    """Whether facts of the device were removed."""
    pruned = False
    for rollout, attempts in list(record.attempts.items()):
        for ref, facts in list(attempts.items()):
            kept = RunKey(record.device.namespace, rollout, ref.run) in keep
            if not kept and _last(facts) < since:
                del attempts[ref]
                pruned = True
        if not attempts:
            del record.attempts[rollout]
    return pruned


def _last(facts: Facts) -> datetime:
    """When anything was heard of the attempt last."""
    times = [
        facts.last_offer,
        facts.offer_ended,
        facts.first_byte,
        facts.last_request,
        facts.install_reported,
        facts.restart_seen,
        facts.target_last,
        facts.other_last,
        facts.last_poll,
        facts.first_offer.at if facts.first_offer is not None else None,
        facts.failure.at if facts.failure is not None else None,
        *(download.completed for download in facts.downloads),
    ]
    return max((time for time in times if time is not None), default=_EVER)


_EVER = datetime.min.replace(tzinfo=UTC)
