"""What policies and breakers take back: offers, pins and transfers."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import Policy, State
from otaflux_policy.facts import Facts
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.windows import is_open, next_change
from otaflux_server.background import set_within
from otaflux_server.decisions import Cached, Decisions
from otaflux_server.deliveries import Deliveries, Delivery
from otaflux_server.devices import DeviceRecord
from otaflux_server.learning import Learning, moment
from otaflux_server.policies import PolicyStore
from otaflux_server.slices import Slices

log = structlog.get_logger(__name__)

_LONGEST_WAIT = 60.0
_JUST_AFTER = 1e-3
_WAITING = frozenset({DecisionReason.CONCURRENCY_LIMIT, DecisionReason.ARTIFACT_UNAVAILABLE})
"""Reasons that withdraw no offer of the same run."""

Rollout = tuple[str, str]
"""Namespace and name."""


class Withdrawals:
    """Breaks pins and cuts transfers at once; offers end when their devices are decided on anew.

    `run` sees to that for devices that do not poll. `pin_seconds`: how long a pin holds.
    """

    def __init__(
        self,
        policies: PolicyStore,
        decisions: Decisions,
        learning: Learning,
        deliveries: Deliveries,
        *,
        pin_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policies = policies
        self._decisions = decisions
        self._learning = learning
        self._deliveries = deliveries
        self._pin_seconds = pin_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._stopped: dict[Rollout, float] = {}
        self._going: frozenset[Rollout] = frozenset()
        self._halted: frozenset[Rollout] = frozenset()
        self._changed = asyncio.Event()

    def stopped_since(self, rollout: Rollout, told: float) -> bool:
        """Whether offers of the rollout were stopped since `told` (monotonic clock)."""
        stopped = self._stopped.get(rollout)
        return stopped is not None and told <= stopped

    def rules_changed(self) -> None:
        """Policies, groups or breakers changed: cuts transfers, breaks pins; offers follow."""
        now = self._monotonic()
        going, halted = set[Rollout](), set[Rollout]()
        for policy in self._policies.policies():
            stopped = policy.state is not State.ACTIVE or self._is_tripped(policy)
            (halted if stopped else going).add((policy.namespace, policy.name))
        for key in self._going - going:
            self._stopped[key] = now
        for key in halted - self._halted:
            self._stopped[key] = now
        self._going, self._halted = frozenset(going), frozenset(halted)
        oldest = now - self._pin_seconds
        for key in [key for key, at in self._stopped.items() if at < oldest]:
            del self._stopped[key]
        for delivery in self._deliveries:
            if self._is_withdrawn(delivery):
                log.info("transfer cut", rollout=delivery.rollout, sent=delivery.sent)
                delivery.end()
        self._changed.set()

    async def run(self, decide: Callable[[DeviceRecord], object]) -> None:
        """Has each offered device decided on again after each change, until cancelled."""
        while True:
            self._changed.clear()
            slices = Slices()
            for record in list(self._learning.offered.values()):
                if not record.unread:
                    decide(record)
                if slices.over:
                    await slices.rest()
            await set_within(self._changed, self._next_window())

    def withdraw(self, record: DeviceRecord, cached: Cached) -> None:
        """Ends the offer, and breaks the pin, that the new decision does not bear out."""
        decision, artifact = cached.decision, cached.artifact
        if decision.reason is DecisionReason.HOLD:
            return
        offer = record.offered
        same = offer is not None and (decision.rollout, decision.run) == (offer[0], offer[1].run)
        waits = same and decision.reason in _WAITING
        other = artifact is None or artifact.digest != record.pinned
        if record.pinned is not None and other and not waits:
            self._learning.pin(record, None)
        if offer is None or waits:
            return
        rollout, ref = offer
        release = decision.release
        stands = same and release is not None and release.digest == ref.digest
        if stands and not self._is_out_of_time(cached):
            return
        self._learning.pin(record, None)
        known = record.attempts.get(rollout, {}).get(ref, Facts())
        now = moment(self._clock())
        ended = max(now, known.last_offer or now)  # the clock may go back
        self._learning.learn(record, rollout, ref, Facts(offer_ended=ended))

    def _next_window(self) -> float:
        """Seconds until a window opens or closes, at most `_LONGEST_WAIT`."""
        now = moment(self._clock())
        windows = (window for policy in self._policies.policies() for window in policy.windows)
        change = next_change(windows, now)
        if change is None:
            return _LONGEST_WAIT
        return min(_LONGEST_WAIT, (change - now) / timedelta(seconds=1) + _JUST_AFTER)

    def _is_tripped(self, policy: Policy) -> bool:
        return policy.tripped or policy.name in self._decisions.counts.tripped(policy.namespace)

    def _is_withdrawn(self, delivery: Delivery) -> bool:
        policy = self._policies.policy(delivery.record.device.namespace, delivery.rollout)
        if policy is None or policy.state is State.ABORTED:
            return True
        ref = delivery.ref
        if policy.rolling_back and any(gone.digest == ref.digest for gone in policy.rollback_from):
            return True
        target = policy.target
        of_run = target is not None and ref == AttemptRef(policy.run, target.digest)
        return of_run and not policy.rolling_back and self._is_tripped(policy)

    def _is_out_of_time(self, cached: Cached) -> bool:
        """Whether the window closed before the offer was taken up: windows govern starting."""
        policy, where = cached.policy, cached.assessed.standing
        if policy is None or policy.rolling_back or where is None:
            return False
        if where.state is not AttemptState.OFFERED:
            return False
        return not is_open(policy.windows, moment(self._clock()))
