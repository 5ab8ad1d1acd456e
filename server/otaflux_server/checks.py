"""The rules by which a rollout and a ring take a device, each with what was compared."""

from otaflux_policy import versions
from otaflux_policy.cohorts import BUCKETS, within
from otaflux_policy.contract import Policy, Ring
from otaflux_policy.devices import Device
from otaflux_policy.models import ContractModel
from otaflux_policy.selectors import DeviceSelector


class Check(ContractModel):
    """One condition; `detail` says what was compared, or why it does not hold."""

    holds: bool
    detail: str


def check_selector(
    selector: DeviceSelector | None, device: Device, labels: dict[str, str]
) -> Check:
    """Whether the selector (None: of a ring without one) takes the device."""
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


def check_models(policy: Policy, model: str | None) -> Check:
    """Whether the rollout is for the model."""
    wanted = policy.compatibility.models
    if not wanted:
        return Check(holds=True, detail="every model")
    if model is None:
        return Check(holds=False, detail=f"the model is unknown, not one of {list(wanted)}")
    holds = model in wanted
    return Check(holds=holds, detail=f"{model} is {'' if holds else 'not '}one of {list(wanted)}")


def check_min_version(policy: Policy, version: str | None) -> Check:
    """Whether the version is new enough to be updated."""
    least = policy.compatibility.min_version
    if least is None:
        return Check(holds=True, detail="every version")
    order = versions.compare(version, least)
    if order is None:
        return Check(holds=False, detail=f"{version or 'unknown'} has no order against {least}")
    return Check(holds=order >= 0, detail=f"{version} against at least {least}")


def check_percent(ring: Ring, place: int | None) -> Check:
    """Whether the bucket `place` (None: there is no release) is within the ring's share."""
    if ring.percent is None:
        return Check(holds=True, detail="no percentage")
    if place is None:
        return Check(holds=False, detail="no release yet to draw a share for")
    bound = ring.percent * (BUCKETS // 100)
    return Check(holds=within(ring.percent, place), detail=f"bucket {place}, below {bound} is in")
