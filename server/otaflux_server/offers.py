"""Offers are claimed in the database before devices are told; what it knows is read back."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from otaflux_policy.assessing import terms
from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import Match
from otaflux_policy.evidence import standing
from otaflux_policy.facts import Facts, FirstOffer
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.evidence.claims import Claim, Claimed, Judge
from otaflux_server.evidence.databases import FactsRefused, StoreUnavailable
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Offer,
    StoredAttempt,
)
from otaflux_server.learning import Learning, moment
from otaflux_server.metrics import Metrics

log = structlog.get_logger(__name__)

_LONGEST_SECONDS = 5.0
"""Longer no answer waits for the database."""
_UNAVAILABLE_SECONDS = 1.0
"""After a failure the database is left alone for so long."""

_INSTANT = timedelta(microseconds=1)


class Claims(Protocol):
    """Where offers are claimed (`Claimer`)."""

    async def claim(self, offer: Offer, limit: int | None, judge: Judge) -> Claimed:
        """Raises StoreUnavailable."""


class Reads(Protocol):
    """Where stored facts of one device are read (`Store`)."""

    async def device(self, key: DeviceKey) -> DeviceFacts | None:
        """Raises StoreUnavailable."""

    async def device_attempts(self, device: DeviceKey) -> list[StoredAttempt]:
        """Raises StoreUnavailable."""


class Flushes(Protocol):
    """Where facts wait to be written (`Recorder`)."""

    failure: str | None

    async def flush(self) -> None:
        """Writes all that waits, if that is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The parts of it that offers need. `shared`: other servers use it too."""

    claimer: Claims
    store: Reads
    recorder: Flushes
    shared: bool = False


class Offers:
    """Asks the database where an answer depends on it; a failed one is left alone for a moment."""

    def __init__(
        self,
        decisions: Decisions,
        learning: Learning,
        database: Database,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.unavailable_until = float("-inf")
        self._decisions = decisions
        self._learning = learning
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._judge: tuple[Policy, Judge] | None = None
        self._failing = False

    async def claim(self, record: DeviceRecord, *, pins: bool) -> bool:
        """Claims the offer that was decided on last; False: it may not be made now.

        `pins`: the answer pins the device to the artifact. What the database knew of the attempt
        is known afterwards.
        """
        cached = record.cached
        if cached is None or not cached.begins or not isinstance(cached.matched, Match):
            return True
        policy, ring, release = cached.matched.policy, cached.matched.ring, cached.decision.release
        assert release is not None
        namespace, device = record.key
        ref = AttemptRef(policy.run, release.digest)
        at = self._after(cached.assessed.facts)
        artifact = cached.artifact
        offer = Offer(
            AttemptKey(namespace, policy.name, *ref, device),
            ring.name if ring is not None else "",
            at,
            self._learning.pin_of(artifact.digest) if pins and artifact is not None else None,
        )
        limit = ring.max_concurrent if ring is not None else None
        try:
            claimed = await self._claimed(record, offer, limit, policy)
        except (StoreUnavailable, FactsRefused, TimeoutError):
            self._metrics.claims.labels("Unavailable").inc()
            if limit is not None:
                return False
            facts = Facts(first_offer=FirstOffer(at, offer.ring), last_offer=at)
            self._learning.learn(record, policy.name, ref, facts)
            return True
        self._metrics.claims.labels(claimed.claim.value).inc()
        self._learning.told(record, policy.name, ref, claimed.facts)
        if claimed.claim is Claim.GRANTED and offer.pin is not None:
            self._learning.pin(record, offer.pin.digest, written=True)
        return claimed.claim is not Claim.LIMITED

    async def read(self, record: DeviceRecord) -> None:
        """Reads what the database knows of a device; as far as it cannot be read: nothing."""
        if self._monotonic() < self.unavailable_until:
            return
        key = DeviceKey(*record.key)
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                device = await self.database.store.device(key)
                attempts = await self.database.store.device_attempts(key)
        except (StoreUnavailable, TimeoutError) as error:
            self._leave_alone(error)
            return
        self._failing = False
        first = record.unread
        record.unread = False
        if device is not None:
            self._learning.told_of(record, device)
        for attempt in attempts:
            ref = AttemptRef(attempt.key.run, attempt.key.digest)
            self._learning.told(record, attempt.key.rollout, ref, attempt.facts)
        if first:
            self._learning.change(record)

    async def _claimed(
        self, record: DeviceRecord, offer: Offer, limit: int | None, policy: Policy
    ) -> Claimed:
        if self._monotonic() < self.unavailable_until:
            raise StoreUnavailable("the evidence database failed a moment ago")
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                news = self.database.shared and record.contact_due <= record.last_seen
                if news:  # another server may get the device's next request
                    self._learning.contact(record)
                if news or record.cached is None or record.cached.assessed.facts is not None:
                    # The claim is judged by what is stored: how the last offer ended, too.
                    await self.database.recorder.flush()
                claimed = await self.database.claimer.claim(offer, limit, self._judge_of(policy))
        except (StoreUnavailable, TimeoutError) as error:
            self._leave_alone(error)
            raise
        self._failing = False
        return claimed

    def _after(self, known: Facts | None) -> datetime:
        """Now; but not before what ended the last offer, though the clock may have gone back."""
        now = moment(self._clock())
        if known is None:
            return now
        ended = None if known.offer_ended is None else known.offer_ended + _INSTANT
        return max(at for at in (now, ended, known.last_poll) if at is not None)

    def _leave_alone(self, error: Exception) -> None:
        if not self._failing:
            why = str(error) or f"no answer within {_LONGEST_SECONDS:g} s"
            log.warning("the evidence database cannot be asked", reason=why)
        self._failing = True
        self.unavailable_until = self._monotonic() + _UNAVAILABLE_SECONDS

    def _judge_of(self, policy: Policy) -> Judge:
        """The same one for many devices that come together."""
        if self._judge is None or self._judge[0] is not policy:
            self._judge = policy, self._judging(policy)
        return self._judge[1]

    def _judging(self, policy: Policy) -> Judge:
        """How far attempts of the policy's run are; of many devices, so the facts alone tell."""
        judged_by = {
            reports: terms(policy, self._decisions.spans, reports=reports)
            for reports in (False, True)
        }

        def judge(facts: Facts) -> AttemptState | None:
            reports = facts.target_first is not None or facts.other_first is not None
            where = standing(facts, judged_by[reports], moment(self._clock()))
            return None if where is None else where.state

        return judge
