"""Decisions for devices, remembered as long as nothing that they depend on changed."""

import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from typing_extensions import override

from otaflux_policy.assessing import Assessment, Spans, assess, terms
from otaflux_policy.attempts import IN_FLIGHT, Attempt, AttemptRef, Evidence
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import Decision, Match, judge
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.windows import next_change
from otaflux_server.artifacts import ArtifactStore, StoredArtifact
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import Placement, place
from otaflux_server.policies import PolicyStore
from otaflux_server.rules import Rules

HOLD = Decision(None, None, None, DecisionReason.HOLD)
_NEVER = float("inf")
_NOT_KEPT = float("-inf")
_NOTHING = Assessment()


class Counts(Protocol):
    """What decisions need of the counts (`Counting`)."""

    @property
    def generation(self) -> int:
        """Differs after each change of `tripped`."""

    def tripped(self, namespace: str) -> Set[str]:
        """Rollouts whose run's breaker is open."""

    def slots(self, namespace: str) -> Mapping[tuple[str, str], int]:
        """How many further devices each ring (rollout, ring) may start."""


class Uncounted(Counts):
    """Counts of a server that cannot count: nobody gets a slot."""

    @property
    @override
    def generation(self) -> int:
        """Nothing changes."""
        return 0

    @override
    def tripped(self, namespace: str) -> Set[str]:
        """None."""
        return frozenset()

    @override
    def slots(self, namespace: str) -> Mapping[tuple[str, str], int]:
        """None."""
        return {}


@dataclass(frozen=True, slots=True)
class Cached:
    """A decision, and what it was made from: it holds while all of that is the same.

    `rules`, `stored` and `counted` are generations of the namespace's rules, of the artifact store
    and of the breakers; `until` is the next instant (seconds since 1970) at which a window opens
    or closes, or time alone changes the attempt. `artifact` holds the bytes of the decision's
    release. `begins`: the answer would begin an offer, which has to be claimed before.
    """

    rules: int
    stored: int
    counted: int
    until: float
    matched: Match | DecisionReason
    decision: Decision
    artifact: StoredArtifact | None
    assessed: Assessment
    begins: bool

    @property
    def policy(self) -> Policy | None:
        """The policy of the rollout that has the device."""
        return None if isinstance(self.matched, DecisionReason) else self.matched.policy

    @property
    def next_change(self) -> datetime | None:
        """The instant `until`; None: never by itself, or not known."""
        if self.until in (_NEVER, _NOT_KEPT):
            return None
        return datetime.fromtimestamp(self.until, UTC)


class Decisions:
    """`decide()` of `otaflux_policy` over what this server knows.

    While `loaded` is False nobody knows which devices failed: every device gets `Hold`.
    """

    def __init__(
        self,
        policies: PolicyStore,
        artifacts: ArtifactStore,
        clock: Callable[[], float] = time.time,
        *,
        spans: Spans | None = None,
        counts: Counts | None = None,
        loaded: bool = True,
    ) -> None:
        self.spans = spans or Spans()
        self.counts: Counts = counts or Uncounted()
        self.loaded = loaded
        self._policies = policies
        self._artifacts = artifacts
        self._clock = clock

    def decide(self, record: DeviceRecord) -> Cached:
        """The decision for the device now: the record's cached one where it still holds.

        The caller sets `cached` to None when the device or its facts change.
        """
        cached = record.cached
        rules = self._policies.rules(record.device.namespace)
        if (
            cached is not None
            and cached.rules == rules.generation
            and cached.stored == self._artifacts.generation
            and cached.counted == self.counts.generation
            and (cached.until == _NEVER or self._clock() < cached.until)
        ):
            return cached
        made = record.cached = self._make(record.device, self.placed(record), record)
        return made

    def without_slot(self, record: DeviceRecord) -> Cached:
        """The decision where no slot could be had; it begins no offer, and is not kept."""
        made = self._make(record.device, self.placed(record), record, slots={})
        if made.begins:
            rules = self._policies.rules(record.device.namespace)
            made = self._cached(rules, made.matched, HOLD, made.assessed, _NOT_KEPT)
        record.cached = made
        return made

    def afresh(self, device: Device, record: DeviceRecord | None) -> Cached:
        """The decision for a device as it might be, with the facts of the record."""
        placed = place(device, self._policies.rules(device.namespace))
        return self._make(device, placed, record)

    def placed(self, record: DeviceRecord) -> Placement:
        """Where the device belongs, remembered in its record."""
        rules = self._policies.rules(record.device.namespace)
        placed = record.place
        if placed is None or not placed.holds(record.device, rules):
            placed = record.place = place(record.device, rules)
        return placed

    def assess(
        self,
        policy: Policy,
        attempts: Mapping[AttemptRef, Facts],
        *,
        reports: bool,
        now: datetime,
    ) -> Assessment:
        """The device's deciding attempt in this rollout."""
        return assess(policy, attempts, terms(policy, self.spans, reports=reports), now)

    def _make(
        self,
        device: Device,
        placed: Placement,
        record: DeviceRecord | None,
        slots: Mapping[tuple[str, str], int] | None = None,
    ) -> Cached:
        namespace, matched = device.namespace, placed.matched
        now = datetime.fromtimestamp(self._clock(), UTC)
        rules = self._policies.rules(namespace)
        if not self.loaded or (record is not None and record.unread):
            return self._cached(rules, matched, HOLD, _NOTHING, _NOT_KEPT)
        if isinstance(matched, DecisionReason) or rules.held:
            decision = HOLD if rules.held else judge(matched, device, Evidence(frozenset()), now)
            return self._cached(rules, matched, decision, _NOTHING, _next_window(matched, now))
        policy = matched.policy
        attempts = record.attempts.get(policy.name) if record is not None else None
        assessed = _NOTHING
        if record is not None and attempts:
            assessed = self.assess(policy, attempts, reports=record.reports, now=now)
        known: dict[str, Attempt] = {}
        if assessed.attempt is not None:
            known[policy.name] = assessed.attempt
        evidence = Evidence(
            stored=self._artifacts.digests,
            attempts=known,
            slots=self.counts.slots(namespace) if slots is None else slots,
            tripped=self.counts.tripped(namespace),
        )
        if device.model is None and (model := rules.groups.model(device.id)) is not None:
            device = replace(device, model=model)
        decision = judge(matched, device, evidence, now)
        state = assessed.attempt.state if assessed.attempt is not None else None
        begins = (
            decision.release is not None
            and decision.reason in (DecisionReason.OFFERED, DecisionReason.ROLLING_BACK)
            and state not in IN_FLIGHT
        )
        if begins or decision.reason is DecisionReason.CONCURRENCY_LIMIT:
            until = _NOT_KEPT  # a slot may come or go at any time
        else:
            until = _next_window(matched, now)
            where = assessed.standing
            if where is not None and where.until is not None:
                until = min(until, where.until.timestamp())
        return self._cached(rules, matched, decision, assessed, until, begins=begins)

    def _cached(
        self,
        rules: Rules,
        matched: Match | DecisionReason,
        decision: Decision,
        assessed: Assessment,
        until: float,
        *,
        begins: bool = False,
    ) -> Cached:
        release = decision.release
        return Cached(
            rules=rules.generation,
            stored=self._artifacts.generation,
            counted=self.counts.generation,
            until=until,
            matched=matched,
            decision=decision,
            artifact=None if release is None else self._artifacts.get(release.firmware.digest),
            assessed=assessed,
            begins=begins,
        )


def _next_window(matched: Match | DecisionReason, now: datetime) -> float:
    windows = () if isinstance(matched, DecisionReason) else matched.policy.windows
    change = next_change(windows, now)
    return _NEVER if change is None else change.timestamp()
