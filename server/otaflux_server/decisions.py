"""Decisions for devices, remembered as long as nothing that they depend on changed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from otaflux_policy.attempts import Evidence
from otaflux_policy.decisions import Decision, Match, judge, match
from otaflux_policy.devices import Device
from otaflux_policy.reasons import DecisionReason
from otaflux_server.artifacts import ArtifactStore, StoredArtifact
from otaflux_server.policies import PolicyStore

_HOLD = Decision(None, None, None, DecisionReason.HOLD)


@dataclass(frozen=True, slots=True)
class Cached:
    """A decision, and what it was made from: it holds while all of that is the same.

    `rules` and `stored` are generations of the namespace's rules and of the artifact store,
    `until` is the next instant (seconds since 1970) at which a window opens or closes. `artifact`
    holds the bytes of the decision's release.
    """

    device: Device
    rules: int
    stored: int
    until: float
    matched: Match | DecisionReason
    decision: Decision
    artifact: StoredArtifact | None

    @property
    def next_change(self) -> datetime | None:
        """The instant `until`; None: never by itself."""
        return None if self.until == _NEVER else datetime.fromtimestamp(self.until, UTC)


class Decisions:
    """`decide()` of `otaflux_policy` over what this server knows."""

    def __init__(
        self,
        policies: PolicyStore,
        artifacts: ArtifactStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policies = policies
        self._artifacts = artifacts
        self._clock = clock

    def decide(self, device: Device, cached: Cached | None) -> Cached:
        """The decision for the device now: `cached` itself where it still holds."""
        rules = self._policies.rules(device.namespace)
        if (
            cached is not None
            and cached.rules == rules.generation
            and (cached.device is device or cached.device == device)
        ):
            if cached.stored == self._artifacts.generation and (
                cached.until == _NEVER or self._clock() < cached.until
            ):
                return cached
            matched = cached.matched
        else:
            matched = match(rules.policies, rules.groups, device)
        now = datetime.fromtimestamp(self._clock(), UTC)
        decision = _HOLD if rules.held else judge(matched, device, self.evidence(), now)
        release = decision.release
        return Cached(
            device=device,
            rules=rules.generation,
            stored=self._artifacts.generation,
            until=_next_change(matched, now),
            matched=matched,
            decision=decision,
            artifact=None if release is None else self._artifacts.get(release.firmware.digest),
        )

    def evidence(self) -> Evidence:
        """What is known beside the policies: so far only which artifacts are stored.

        Without a record of attempts nobody can count, so rings with `maxConcurrent` get no slots.
        """
        return Evidence(stored=self._artifacts.digests)


_NEVER = float("inf")


def _next_change(matched: Match | DecisionReason, now: datetime) -> float:
    if isinstance(matched, DecisionReason) or not matched.policy.windows:
        return _NEVER
    return min(window.next_change(now) for window in matched.policy.windows).timestamp()
