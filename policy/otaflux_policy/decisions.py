"""What one device gets now: a pure function over policies, groups, evidence and the time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from otaflux_policy import versions
from otaflux_policy.attempts import IN_FLIGHT, UNSUCCESSFUL, Attempt, AttemptState, Evidence
from otaflux_policy.cohorts import bucket, within
from otaflux_policy.contract import Downgrade, Policy, Release, Ring, State
from otaflux_policy.devices import Device
from otaflux_policy.groups import Groups
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.windows import is_open


@dataclass(frozen=True, slots=True)
class Match:
    """The rollout that a device belongs to, and its ring there (None: in none of them)."""

    policy: Policy
    ring: Ring | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The release that the device may have (None: no update), from which rollout and ring, why."""

    release: Release | None
    rollout: str | None
    ring: str | None
    reason: DecisionReason
    run: int = 0


def decide(
    policies: Iterable[Policy], groups: Groups, device: Device, evidence: Evidence, now: datetime
) -> Decision:
    """What `device` gets at `now`. Total and deterministic; never raises.

    Policies of other namespaces are not looked at. The rows are those of the table "The policy"
    in `docs/architecture.md`; the first that fits wins.
    """
    known = replace(device, model=device.model or groups.model(device.id))
    return judge(match(policies, groups, known), known, evidence, now)


def match(policies: Iterable[Policy], groups: Groups, device: Device) -> Match | DecisionReason:
    """The rollout that wins the device: highest priority, then oldest, then first by name.

    Where none does: `NoMatch`, or `Incompatible` if one selects it.
    """
    labels = groups.labels(device.id)
    model = device.model or groups.model(device.id)
    reason = DecisionReason.NO_MATCH
    for policy in sorted(policies, key=precedence):
        if policy.namespace != device.namespace:
            continue
        if not policy.device_selector.matches(device.id, labels):
            continue
        if not _compatible(policy, model, device.version):
            reason = DecisionReason.INCOMPATIBLE
            continue
        return Match(policy, _ring(policy, device.id, labels))
    return reason


def precedence(policy: Policy) -> tuple[int, datetime, str]:
    """Sorts policies so that the first that matches a device is the one that counts."""
    return (-policy.priority, policy.created_at, policy.name)


def judge(
    matched: Match | DecisionReason, device: Device, evidence: Evidence, now: datetime
) -> Decision:
    """The decision for a device whose rollout and ring are known (`match`).

    `device.model` is the one that counts: that of its group where it says none itself.
    """
    if isinstance(matched, DecisionReason):
        return Decision(None, None, None, matched)
    policy, ring = matched.policy, matched.ring
    release, reason = _judge(policy, ring, device, evidence, now)
    if release is not None and not _is_for(release, device.model):
        # The policy admits who may have the target; the stable release may be for fewer.
        release, reason = None, DecisionReason.INCOMPATIBLE
    if release is not None and release.firmware.digest not in evidence.stored:
        release, reason = None, DecisionReason.ARTIFACT_UNAVAILABLE
    return Decision(release, policy.name, ring.name if ring else None, reason, policy.run)


def _is_for(release: Release, model: str | None) -> bool:
    models = release.firmware.models
    return not models or model in models


def _compatible(policy: Policy, model: str | None, version: str | None) -> bool:
    wanted = policy.compatibility
    if wanted.models and model not in wanted.models:
        return False
    return _reaches(version, wanted.min_version)


def _reaches(version: str | None, least: str | None) -> bool:
    if least is None:
        return True
    order = versions.compare(version, least)
    return order is not None and order >= 0


def _ring(policy: Policy, device: str, labels: Mapping[str, str]) -> Ring | None:
    place: int | None = None
    for ring in policy.rings:
        if ring.selector is not None and not ring.selector.matches(device, labels):
            continue
        if ring.percent is not None:
            if policy.target is None:
                continue
            if place is None:
                place = bucket(policy.namespace, policy.name, policy.target.digest, device)
            if not within(ring.percent, place):
                continue
        return ring
    return None


Verdict = tuple[Release | None, DecisionReason]


def _judge(
    policy: Policy, ring: Ring | None, device: Device, evidence: Evidence, now: datetime
) -> Verdict:
    attempt = evidence.attempts.get(policy.name)
    state = attempt.state if attempt else None
    release = policy.stable if policy.rolling_back else policy.target
    if state in UNSUCCESSFUL:
        return None, DecisionReason.PREVIOUSLY_FAILED
    if release is not None and (state is AttemptState.UPDATED or runs(device, release)):
        return release, DecisionReason.UP_TO_DATE
    if policy.state is State.PAUSED:
        return None, DecisionReason.PAUSED
    if policy.state is State.ABORTED:
        return None, DecisionReason.ABORTED
    if policy.rolling_back:
        if touched(policy, device, attempt):
            if _has_slot(policy, ring, state, evidence):
                return policy.stable, DecisionReason.ROLLING_BACK
            return None, DecisionReason.CONCURRENCY_LIMIT
    elif ring is not None and ring.open and policy.target is not None:
        return _judge_open(policy, policy.target, ring, device, attempt, evidence, now)
    return _judge_closed(policy, device, attempt, now), DecisionReason.RING_CLOSED


def _judge_open(
    policy: Policy,
    target: Release,
    ring: Ring,
    device: Device,
    attempt: Attempt | None,
    evidence: Evidence,
    now: datetime,
) -> Verdict:
    state = attempt.state if attempt else None
    if (
        policy.downgrade is Downgrade.FORBID
        and versions.compare(device.version, target.version) == 1
    ):
        return None, DecisionReason.DOWNGRADE_FORBIDDEN
    if policy.tripped or policy.name in evidence.tripped:
        release = None if state in IN_FLIGHT else _judge_held_back(policy, device, attempt, now)
        return release, DecisionReason.BREAKER_OPEN
    if state in IN_FLIGHT:
        return target, DecisionReason.OFFERED
    if not is_open(policy.windows, now):
        return None, DecisionReason.OUTSIDE_WINDOW
    if not _has_slot(policy, ring, state, evidence):
        held_back = _judge_held_back(policy, device, attempt, now)
        return held_back, DecisionReason.CONCURRENCY_LIMIT
    return target, DecisionReason.OFFERED


def _judge_held_back(
    policy: Policy, device: Device, attempt: Attempt | None, now: datetime
) -> Release | None:
    """As in a closed ring; but where the target is the stable release by now, not that either."""
    release = _judge_closed(policy, device, attempt, now)
    if release is None or policy.target is None or release.digest == policy.target.digest:
        return None
    return release


def _judge_closed(
    policy: Policy, device: Device, attempt: Attempt | None, now: datetime
) -> Release | None:
    """The stable release, unless the device runs something newer or of unknown order."""
    stable = policy.stable
    if stable is None or not is_open(policy.windows, now):
        return None
    if not _reaches(device.version, stable.min_version):
        return None
    if device.version is None:
        if device.digest == stable.digest:
            return stable
        newer = {known.digest for known in policy.rollback_from}
        if policy.target is not None:
            newer.add(policy.target.digest)
        # Its first byte of the target is in: it may run that by now.
        has_bytes = attempt is not None and attempt.touched
        return None if device.digest in newer or has_bytes else stable
    order = versions.compare(device.version, stable.version)
    return stable if order is not None and order <= 0 else None


def runs(device: Device, release: Release) -> bool:
    """Whether the device is known to run the release."""
    return device.digest == release.digest or versions.same(device.version, release.version)


def touched(policy: Policy, device: Device, attempt: Attempt | None) -> bool:
    """Whether the device has, or may have, a release that came after the stable one."""
    return (attempt is not None and attempt.touched) or any(
        device.digest == gone.digest or versions.same(device.version, gone.version)
        for gone in policy.rollback_from
    )


def _has_slot(
    policy: Policy, ring: Ring | None, state: AttemptState | None, evidence: Evidence
) -> bool:
    if ring is None or ring.max_concurrent is None or state in IN_FLIGHT:
        return True
    return evidence.slots.get((policy.name, ring.name), 0) > 0
