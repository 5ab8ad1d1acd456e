"""Which rollout and ring a device belongs to, for many devices: rules compiled once.

The same answer as `match` of `otaflux_policy.decisions`, which looks at every policy in turn.
Here a policy that selects by a label, or by exact ids, is looked at only for devices that have
it. Also told: which rollouts would have the device if the winner were not there.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from otaflux_policy import versions
from otaflux_policy.cohorts import bucket, within
from otaflux_policy.contract import Policy, Ring
from otaflux_policy.decisions import Match
from otaflux_policy.devices import Device
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.selectors import DeviceSelector, LabelRequirement, glob_matches, is_glob
from otaflux_server.rules import Rules

_COMPILED = 64
"""Rules of so many namespaces stay compiled, those used last."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where `device` belongs by the rules of `generation`: rollout and ring, or why in none.

    `shadowed` names the rollouts, in their order, that fit the device too and lost it to the one
    that has it.
    """

    generation: int
    matched: Match | DecisionReason
    shadowed: tuple[str, ...]
    device: Device

    def holds(self, device: Device, rules: Rules) -> bool:
        """Whether it is still right: neither the device nor the rules changed."""
        return self.generation == rules.generation and (
            self.device is device or self.device == device
        )


def place(device: Device, rules: Rules) -> Placement:
    """Where the device belongs by the rules of its namespace. Never raises."""
    return placer(rules).place(device)


def placer(rules: Rules) -> "Placer":
    """The rules, compiled; remembered for the namespaces that were asked for last."""
    known = _placers.get(id(rules))
    if known is None:
        known = _placers[id(rules)] = Placer(rules)
        if len(_placers) > _COMPILED:
            _placers.popitem(last=False)
    else:
        _placers.move_to_end(id(rules))
    return known


class Placer:
    """The rules of one namespace, ready to place many devices."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._rollouts = [_Rollout(policy) for policy in rules.policies]
        # By which one property each rollout is found; one in none of them fits many devices.
        self._by_label: dict[tuple[str, str], list[int]] = {}
        self._by_id: dict[str, list[int]] = {}
        self._broad: list[int] = []
        for index, rollout in enumerate(self._rollouts):
            selector = rollout.selector
            if selector.ids and not selector.globs:
                for device in selector.ids:
                    self._by_id.setdefault(device, []).append(index)
            elif selector.labels:
                self._by_label.setdefault(selector.labels[0], []).append(index)
            else:
                self._broad.append(index)

    def place(self, device: Device) -> Placement:
        """Where the device belongs."""
        groups = self.rules.groups
        labels = groups.labels(device.id)
        candidates = self._candidates(device.id, labels)
        chosen: Match | DecisionReason = DecisionReason.NO_MATCH
        shadowed: list[str] = []
        model = device.model or groups.model(device.id)
        for index in candidates:
            rollout = self._rollouts[index]
            if rollout.policy.namespace != device.namespace:
                continue
            if not rollout.selector.matches(device.id, labels):
                continue
            if not rollout.admits(model, device.version):
                if chosen is DecisionReason.NO_MATCH:
                    chosen = DecisionReason.INCOMPATIBLE
            elif isinstance(chosen, Match):
                shadowed.append(rollout.policy.name)
            else:
                chosen = rollout.match(device.id, labels)
        return Placement(self.rules.generation, chosen, tuple(shadowed), device)

    def _candidates(self, device: str, labels: Mapping[str, str]) -> list[int]:
        lists = [found for item in labels.items() if (found := self._by_label.get(item))]
        if found := self._by_id.get(device):
            lists.append(found)
        if not lists:
            return self._broad
        if self._broad:
            lists.append(self._broad)
        return lists[0] if len(lists) == 1 else sorted(set().union(*lists))


class _Selector:
    """A device selector, taken apart."""

    __slots__ = ("expressions", "globs", "ids", "labels")

    def __init__(self, selector: DeviceSelector) -> None:
        self.labels = tuple(selector.match_labels.items())
        self.expressions: tuple[LabelRequirement, ...] = selector.match_expressions
        self.ids = frozenset(name for name in selector.names if not is_glob(name))
        self.globs = tuple(name for name in selector.names if is_glob(name))

    def matches(self, device: str, labels: Mapping[str, str]) -> bool:
        for key, value in self.labels:
            if labels.get(key) != value:
                return False
        for requirement in self.expressions:
            if not requirement.matches(labels):
                return False
        if not self.ids and not self.globs:
            return True
        return device in self.ids or _any_matches(self.globs, device)


class _Rollout:
    """One policy, taken apart."""

    __slots__ = ("_digest", "_in_none", "_models", "_rings", "policy", "selector")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.selector = _Selector(policy.device_selector)
        self._models = frozenset(policy.compatibility.models)
        self._digest = policy.target.digest if policy.target is not None else None
        self._in_none = Match(policy, None)
        self._rings: list[tuple[_Selector | None, Ring, Match]] = [
            (None if ring.selector is None else _Selector(ring.selector), ring, Match(policy, ring))
            for ring in policy.rings
        ]

    def admits(self, model: str | None, version: str | None) -> bool:
        if self._models and model not in self._models:
            return False
        least = self.policy.compatibility.min_version
        if least is None:
            return True
        order = versions.compare(version, least)
        return order is not None and order >= 0

    def match(self, device: str, labels: Mapping[str, str]) -> Match:
        place: int | None = None
        for selector, ring, match in self._rings:
            if selector is not None and not selector.matches(device, labels):
                continue
            if ring.percent is not None:
                if self._digest is None:
                    continue
                if place is None:
                    place = bucket(self.policy.namespace, self.policy.name, self._digest, device)
                if not within(ring.percent, place):
                    continue
            return match
        return self._in_none


def _any_matches(globs: Iterable[str], device: str) -> bool:
    return any(glob_matches(glob, device) for glob in globs)


# By identity: rules cannot be hashed, and a compiled one keeps its rules alive.
_placers: OrderedDict[int, Placer] = OrderedDict()
