"""Why a device gets what it gets, rule by rule, for people (`explain`)."""

from datetime import UTC, datetime, timedelta

from otaflux_policy.assessing import Assessment, deciding
from otaflux_policy.attempts import AttemptState
from otaflux_policy.cohorts import bucket
from otaflux_policy.contract import Policy, Release, State
from otaflux_policy.counts import Trip
from otaflux_policy.decisions import Decision, Match
from otaflux_policy.devices import Device
from otaflux_policy.groups import Groups
from otaflux_policy.models import ContractModel
from otaflux_policy.reasons import MEANINGS, DecisionReason
from otaflux_policy.windows import Window, is_open, next_change, opens_at
from otaflux_server.attempts import AttemptView, attempt_view
from otaflux_server.checks import (
    Check,
    check_min_version,
    check_models,
    check_percent,
    check_selector,
)
from otaflux_server.counting import Counting
from otaflux_server.decisions import Cached, Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.protocols.native import obstacle
from otaflux_server.rules import Rules


class ExplainedRing(ContractModel):
    """One ring of a rollout. The device is in the first whose conditions all hold."""

    name: str
    open: bool
    chosen: bool
    selector: Check
    percent: Check


class ExplainedRollout(ContractModel):
    """One rollout, in the order in which they are tried. `chosen`: it decides for the device."""

    name: str
    revision: str
    priority: int
    run: int
    state: State
    rolling_back: bool
    target: str | None
    stable: str | None
    chosen: bool
    selector: Check
    models: Check
    min_version: Check
    bucket: int | None
    rings: tuple[ExplainedRing, ...]


class ExplainedSlots(ContractModel):
    """The ring's `maxConcurrent` (None: any number), and how many further devices it may start."""

    ring: str
    max_concurrent: int | None
    free: int | None


class ExplainedWindows(ContractModel):
    """Whether the rollout may start devices now, and when that changes."""

    open: bool
    next_change: datetime | None
    windows: tuple[Window, ...]


class ExplainedBreaker(ContractModel):
    """Whether the breaker of the run is open. `trip`: by which counts, if this server knows.

    The ring's failure rule (None: it has none), and its outcomes so far (None: not known).
    """

    open: bool
    trip: Trip | None
    max_percent: int | None
    min_sample: int | None
    failed: int | None
    updated: int | None


class ExplainedTimes(ContractModel):
    """What time alone does: `attempt_until` is when the attempt is given up (withdrawn or timed
    out), `active_until` when the device counts as gone unless it is heard of before."""

    attempt_until: datetime | None
    active_until: datetime | None


class Explanation(ContractModel):
    """The decision for a device now, and every rule that was looked at.

    `seen` says whether the device polled any server; if not, nothing is known of its version.
    `native` says whether clients of the native protocol can take the release; else they are told
    `ArtifactUnavailable`. `attempt` is the one that decides (None: there is none), `slots`,
    `windows`, `breaker` and `times` are those of the rollout and ring that the device is in.
    `counted`: whether it adds to the counts, and why not; `counts_in`: to which rings (`""`: in
    none of the rollout's), by rollout. `waits_for`: what has to happen before it gets another
    answer.
    """

    namespace: str
    device: str
    seen: bool
    version: str | None
    model: str | None
    labels: dict[str, str]
    groups: tuple[str, ...]
    reason: DecisionReason
    meaning: str
    rollout: str | None
    ring: str | None
    run: int
    release: Release | None
    native: Check
    next_change: datetime | None
    attempt: AttemptView | None
    slots: ExplainedSlots | None
    windows: ExplainedWindows | None
    breaker: ExplainedBreaker | None
    times: ExplainedTimes | None
    counted: Check
    counts_in: dict[str, str]
    waits_for: str
    rollouts: tuple[ExplainedRollout, ...]


def explain(
    device: Device,
    record: DeviceRecord | None,
    rules: Rules,
    decisions: Decisions,
    counting: Counting,
    now: datetime,
) -> Explanation:
    """Explains the decision that the device would get this moment."""
    made = decisions.afresh(device, record)
    decision: Decision = made.decision
    unread = not decisions.loaded or (record is not None and record.unread)
    groups = rules.groups
    labels = dict(groups.labels(device.id))
    chosen = made.matched if isinstance(made.matched, Match) else None
    return Explanation(
        namespace=device.namespace,
        device=device.id,
        seen=record is not None,
        version=device.version,
        model=device.model or groups.model(device.id),
        labels=labels,
        groups=tuple(group.name for group in groups.of(device.id)),
        reason=decision.reason,
        meaning=MEANINGS[decision.reason],
        rollout=decision.rollout,
        ring=decision.ring,
        run=decision.run,
        release=decision.release,
        native=_native(made),
        next_change=made.next_change,
        attempt=_attempt(chosen, made.assessed),
        slots=_slots(chosen, counting),
        windows=_windows(chosen, now),
        breaker=_breaker(chosen, counting),
        times=_times(chosen, made.assessed, record),
        counted=_counted(device, record, rules, counting),
        counts_in=_counts_in(record, counting),
        waits_for=_waits_for(decision, chosen, made.assessed, rules, unread, now),
        rollouts=tuple(
            _rollout(policy, groups, device, labels, chosen) for policy in rules.policies
        ),
    )


def _attempt(chosen: Match | None, assessed: Assessment) -> AttemptView | None:
    ref = deciding(chosen.policy) if chosen is not None else None
    if chosen is None or ref is None or assessed.facts is None:
        return None
    return attempt_view(chosen.policy.name, ref, assessed.facts, assessed.standing)


def _slots(chosen: Match | None, counting: Counting) -> ExplainedSlots | None:
    if chosen is None or chosen.ring is None:
        return None
    policy, ring = chosen.policy, chosen.ring
    free = counting.slots(policy.namespace).get((policy.name, ring.name))
    return ExplainedSlots(ring=ring.name, max_concurrent=ring.max_concurrent, free=free)


def _windows(chosen: Match | None, now: datetime) -> ExplainedWindows | None:
    if chosen is None:
        return None
    windows = chosen.policy.windows
    return ExplainedWindows(
        open=is_open(windows, now),
        next_change=next_change(windows, now),
        windows=windows,
    )


def _breaker(chosen: Match | None, counting: Counting) -> ExplainedBreaker | None:
    if chosen is None:
        return None
    policy, ring = chosen.policy, chosen.ring
    rule = ring.failure if ring is not None else None
    counts = counting.counts(policy.namespace, policy.name)
    known = counts.ring(ring.name) if counts is not None and ring is not None else None
    return ExplainedBreaker(
        open=policy.name in counting.tripped(policy.namespace),
        trip=counting.trip(policy.namespace, policy.name),
        max_percent=rule.max_percent if rule is not None else None,
        min_sample=rule.min_sample if rule is not None else None,
        failed=known.failed_outcomes if known is not None else None,
        updated=known.updated_outcomes if known is not None else None,
    )


def _times(
    chosen: Match | None, assessed: Assessment, record: DeviceRecord | None
) -> ExplainedTimes | None:
    if chosen is None:
        return None
    active_until = None
    if record is not None:
        seen = datetime.fromtimestamp(record.last_seen, UTC)
        active_until = seen + timedelta(seconds=chosen.policy.active_within)
    where = assessed.standing
    return ExplainedTimes(
        attempt_until=where.until if where is not None else None, active_until=active_until
    )


def _counted(
    device: Device, record: DeviceRecord | None, rules: Rules, counting: Counting
) -> Check:
    if rules.groups.names_exactly(device.id):
        if record is None:
            return Check(holds=False, detail="a group names it, but it was never heard of")
        return Check(holds=True, detail="a group names it")
    if record is None:
        return Check(holds=False, detail="it was never heard of, and no group names it")
    if not counting.weigher.scan_seconds:
        return Check(holds=True, detail="it was heard of, and no scanner passes for a device")
    span = f"{counting.weigher.scan_seconds:g} s"
    if counting.counted(record):
        return Check(holds=True, detail=f"it polled over more than {span}")
    return Check(
        holds=False,
        detail=f"no group names it exactly, and no two of its polls are {span} apart yet: it may "
        "be a scanner",
    )


def _counts_in(record: DeviceRecord | None, counting: Counting) -> dict[str, str]:
    weight = counting.weight(record) if record is not None else None
    if weight is None or not weight.counted:
        return {}
    return {name: share.ring or share.outcome_ring for name, share in weight.shares}


def _waits_for(
    decision: Decision,
    chosen: Match | None,
    assessed: Assessment,
    rules: Rules,
    unread: bool,
    now: datetime,
) -> str:
    """What has to happen before the device gets another answer, in words.

    `unread`: the database may know more of the device.
    """
    if rules.held:
        return waits(DecisionReason.HOLD)
    if unread:
        return "the database: what devices did is not known yet"
    general = waits(decision.reason)
    if chosen is None:
        return general
    policy, ring = chosen.policy, chosen.ring
    state = assessed.standing.state if assessed.standing is not None else None
    match decision.reason:
        case DecisionReason.RING_CLOSED if policy.rolling_back:
            return "a new release: the run is rolling back, which does not concern the device"
        case DecisionReason.RING_CLOSED:
            in_none = "a ring that takes the device: it is in none"
            return in_none if ring is None else f"ring {ring.name} to open"
        case DecisionReason.OUTSIDE_WINDOW:
            opens = opens_at(policy.windows, now)
            if opens is not None:
                return f"a window: the next one opens at {opens:%Y-%m-%d %H:%M} UTC"
        case DecisionReason.OFFERED | DecisionReason.ROLLING_BACK if state is not None:
            return _IN_FLIGHT_WAITS.get(state, general)
    return general


def waits(reason: DecisionReason) -> str:
    """What a device that got this answer waits for, in general."""
    return _WAITS[reason]


_WAITS = {
    DecisionReason.NO_MATCH: "a rollout or a device group that selects it",
    DecisionReason.INCOMPATIBLE: "a rollout that admits its model and version",
    DecisionReason.RING_CLOSED: "the device's ring to open",
    DecisionReason.PAUSED: "the rollout to go on (`state: Active`)",
    DecisionReason.ABORTED: "a new release, or another `retryToken`",
    DecisionReason.OUTSIDE_WINDOW: "a window to open",
    DecisionReason.CONCURRENCY_LIMIT: "another device of its ring to come to an outcome",
    DecisionReason.BREAKER_OPEN: "a new release, or another `retryToken`",
    DecisionReason.DOWNGRADE_FORBIDDEN: "a newer release, or `downgrade: Allow`",
    DecisionReason.PREVIOUSLY_FAILED: "a new release, or another `retryToken`",
    DecisionReason.ARTIFACT_UNAVAILABLE: "the server to store the release's bytes",
    DecisionReason.UP_TO_DATE: "nothing: it runs the release",
    DecisionReason.OFFERED: "the device to fetch the release",
    DecisionReason.ROLLING_BACK: "the device to fetch the stable release",
    DecisionReason.HOLD: "policies that the server can read",
}
_IN_FLIGHT_WAITS = {
    AttemptState.OFFERED: "the device to fetch the first byte",
    AttemptState.DOWNLOADING: "the device to complete its download",
    AttemptState.DOWNLOADED: "the device to report (or, if it never does, to poll twice)",
    AttemptState.INSTALLING: "the device to report the release's version",
}


def _native(made: Cached) -> Check:
    release = made.decision.release
    why = obstacle(release, made.artifact) if release is not None else "no update"
    return Check(holds=not why, detail=why or "they can take it")


def _rollout(
    policy: Policy, groups: Groups, device: Device, labels: dict[str, str], chosen: Match | None
) -> ExplainedRollout:
    target, stable = policy.target, policy.stable
    place = None
    if target is not None:
        place = bucket(policy.namespace, policy.name, target.digest, device.id)
    here = chosen if chosen is not None and chosen.policy.name == policy.name else None
    return ExplainedRollout(
        name=policy.name,
        revision=policy.revision,
        priority=policy.priority,
        run=policy.run,
        state=policy.state,
        rolling_back=policy.rolling_back,
        target=target and target.version,
        stable=stable and stable.version,
        chosen=here is not None,
        selector=check_selector(policy.device_selector, device, labels),
        models=check_models(policy, device.model or groups.model(device.id)),
        min_version=check_min_version(policy, device.version),
        bucket=place,
        rings=tuple(
            ExplainedRing(
                name=ring.name,
                open=ring.open,
                chosen=here is not None and here.ring is not None and here.ring.name == ring.name,
                selector=check_selector(ring.selector, device, labels),
                percent=check_percent(ring, place),
            )
            for ring in policy.rings
        ),
    )
