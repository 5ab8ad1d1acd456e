"""Why a device gets what it gets, rule by rule, for people (`explain`)."""

from datetime import datetime

from otaflux_policy import versions
from otaflux_policy.cohorts import BUCKETS, bucket, within
from otaflux_policy.contract import Policy, Release, Ring, State
from otaflux_policy.decisions import Decision, Match
from otaflux_policy.devices import Device
from otaflux_policy.groups import Groups
from otaflux_policy.models import ContractModel
from otaflux_policy.reasons import MEANINGS, DecisionReason
from otaflux_policy.selectors import DeviceSelector
from otaflux_server.decisions import Cached, Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.policies import Rules
from otaflux_server.protocols.native import obstacle


class Check(ContractModel):
    """One condition; `detail` says what was compared, or why it does not hold."""

    holds: bool
    detail: str


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


class Explanation(ContractModel):
    """The decision for a device now, and every rule that was looked at.

    `seen` says whether the device polled this server; if not, nothing is known of its version.
    `native` says whether clients of the native protocol can take the release; else they are told
    `ArtifactUnavailable`.
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
    rollouts: tuple[ExplainedRollout, ...]


def explain(
    device: Device, record: DeviceRecord | None, rules: Rules, decisions: Decisions
) -> Explanation:
    """Explains the decision that the device would get this moment."""
    made = decisions.decide(device, None)
    decision: Decision = made.decision
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
        rollouts=tuple(
            _rollout(policy, groups, device, labels, chosen) for policy in rules.policies
        ),
    )


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
        selector=_selector(policy.device_selector, device, labels),
        models=_models(policy, device.model or groups.model(device.id)),
        min_version=_min_version(policy, device.version),
        bucket=place,
        rings=tuple(
            ExplainedRing(
                name=ring.name,
                open=ring.open,
                chosen=here is not None and here.ring is not None and here.ring.name == ring.name,
                selector=_selector(ring.selector, device, labels),
                percent=_percent(ring, place),
            )
            for ring in policy.rings
        ),
    )


def _selector(selector: DeviceSelector | None, device: Device, labels: dict[str, str]) -> Check:
    if selector is None:
        return Check(holds=True, detail="no selector")
    wrong = [
        f"label {key} is {labels[key]!r}, not {value!r}" if key in labels else f"no label {key}"
        for key, value in selector.match_labels.items()
        if labels.get(key) != value
    ]
    wrong += [
        f"label {part.key} ({labels.get(part.key)!r}) is not {part.operator.value} "
        f"{list(part.values)}"
        for part in selector.match_expressions
        if not part.matches(labels)
    ]
    if selector.names and not DeviceSelector(names=selector.names).matches(device.id, labels):
        wrong.append(f"the id fits none of the names {list(selector.names)}")
    return Check(holds=not wrong, detail="; ".join(wrong) or "selects the device")


def _models(policy: Policy, model: str | None) -> Check:
    wanted = policy.compatibility.models
    if not wanted:
        return Check(holds=True, detail="every model")
    if model is None:
        return Check(holds=False, detail=f"the model is unknown, not one of {list(wanted)}")
    holds = model in wanted
    return Check(holds=holds, detail=f"{model} is {'' if holds else 'not '}one of {list(wanted)}")


def _min_version(policy: Policy, version: str | None) -> Check:
    least = policy.compatibility.min_version
    if least is None:
        return Check(holds=True, detail="every version")
    order = versions.compare(version, least)
    if order is None:
        return Check(holds=False, detail=f"{version or 'unknown'} has no order against {least}")
    return Check(holds=order >= 0, detail=f"{version} against at least {least}")


def _percent(ring: Ring, place: int | None) -> Check:
    if ring.percent is None:
        return Check(holds=True, detail="no percentage")
    if place is None:
        return Check(holds=False, detail="no release yet to draw a share for")
    bound = ring.percent * (BUCKETS // 100)
    return Check(holds=within(ring.percent, place), detail=f"bucket {place}, below {bound} is in")
