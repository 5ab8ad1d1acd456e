"""Which devices each ring of a rollout would take: a preview, also before anything is released."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypedDict

from otaflux_policy import versions
from otaflux_policy.contract import Policy, Release
from otaflux_policy.decisions import Match
from otaflux_policy.models import ContractModel
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import Placer
from otaflux_server.rules import Rules
from otaflux_server.slices import Slices


class _Fields(TypedDict):
    devices: int
    active: int
    first: tuple[str, ...]


class PreviewedDevices(ContractModel):
    """A number of devices: `active` of them were seen within `activeWithin`.

    `first`: the first ids, in order.
    """

    devices: int
    active: int
    first: tuple[str, ...]


class PreviewedRing(PreviewedDevices):
    """The devices that one ring would take, and whether it is open now."""

    name: str
    open: bool


class ShadowedBy(PreviewedDevices):
    """Devices that fit the rollout, and that `rollout` has."""

    rollout: str


class Incompatible(PreviewedDevices):
    """Devices that the rollout selects and does not admit, for the reason `why`."""

    why: str


class Preview(ContractModel):
    """Which of the devices that the server knows a release of the rollout would reach.

    `digest` is the manifest digest that shares were drawn for: that which was asked for, else
    of the candidate, else of the target, else of the stable release; None: nothing was released
    yet, and rings with a percentage take nobody. `unplaced`: they are in no ring. `unknown_models`
    counts devices of which no model is known, where the rollout lists models. `uncounted`: ids
    that may be a scanner's, left out everywhere else.
    """

    namespace: str
    name: str
    revision: str
    digest: str | None
    version: str | None
    rings: tuple[PreviewedRing, ...]
    unplaced: PreviewedDevices
    shadowed: tuple[ShadowedBy, ...]
    incompatible: tuple[Incompatible, ...]
    unknown_models: int
    uncounted: int


async def preview(
    policy: Policy,
    rules: Rules,
    records: Iterable[DeviceRecord],
    counted: Callable[[DeviceRecord], bool],
    now: float,
    *,
    limit: int = 20,
    digest: str | None = None,
    slices: Slices | None = None,
) -> Preview:
    """The preview for a policy of `rules`, over `records`; `now` in seconds since 1970.

    Devices of other namespaces are not looked at. Up to `limit` ids each are named.
    """
    slices = slices or Slices()
    release = _release(policy, digest)
    placer = Placer(_with_target(rules, policy, release))
    seen_since = now - policy.active_within
    rings = {ring.name: _Group(limit) for ring in policy.rings}
    unplaced = _Group(limit)
    shadowed: dict[str, _Group] = {}
    incompatible: dict[str, _Group] = {}
    unknown_models = uncounted = 0
    for record in records:
        if slices.over:
            await slices.rest()
        device = record.device
        if device.namespace != policy.namespace:
            continue
        placed = placer.place(device)
        matched = placed.matched
        if isinstance(matched, Match) and matched.policy.name == policy.name:
            group = rings[matched.ring.name] if matched.ring is not None else unplaced
        elif isinstance(matched, Match) and policy.name in placed.shadowed:
            group = shadowed.setdefault(matched.policy.name, _Group(limit))
        else:
            labels = rules.groups.labels(device.id)
            if not policy.device_selector.matches(device.id, labels):
                continue
            model = device.model or rules.groups.model(device.id)
            if policy.compatibility.models and model is None:
                unknown_models += counted(record)
            why = _obstacle(policy, model, device.version)
            group = incompatible.setdefault(why, _Group(limit))
        if counted(record):
            group.add(device.id, record.last_seen >= seen_since)
        else:
            uncounted += 1
    return Preview(
        namespace=policy.namespace,
        name=policy.name,
        revision=policy.revision,
        digest=release.digest if release is not None else None,
        version=release.version or None if release is not None else None,
        rings=tuple(
            PreviewedRing(name=ring.name, open=ring.open, **rings[ring.name].fields())
            for ring in policy.rings
        ),
        unplaced=PreviewedDevices(**unplaced.fields()),
        shadowed=tuple(
            ShadowedBy(rollout=name, **group.fields())
            for name, group in sorted(shadowed.items())
            if group.devices
        ),
        incompatible=tuple(
            Incompatible(why=why, **group.fields())
            for why, group in sorted(incompatible.items())
            if group.devices
        ),
        unknown_models=unknown_models,
        uncounted=uncounted,
    )


class _Group:
    """Devices that share a fate; of their ids only as many are kept as are shown."""

    def __init__(self, limit: int) -> None:
        self.devices = 0
        self._active = 0
        self._limit = limit
        self._ids: list[str] = []

    def add(self, device: str, active: bool) -> None:
        self.devices += 1
        self._active += active
        self._ids.append(device)
        if len(self._ids) > 4 * self._limit + 256:
            self._ids = heapq.nsmallest(self._limit, self._ids)

    def fields(self) -> _Fields:
        """The fields of `PreviewedDevices`."""
        first = tuple(heapq.nsmallest(self._limit, self._ids))
        return {"devices": self.devices, "active": self._active, "first": first}


def _release(policy: Policy, digest: str | None) -> Release | None:
    """The release that shares are drawn for; of one that no policy lists only the digest counts."""
    known = (policy.candidate, policy.target, policy.stable)
    releases = [release for release in known if release is not None]
    if digest is None:
        return releases[0] if releases else None
    unknown = Release.model_construct(version="", digest=digest, artifacts=())
    return next((release for release in releases if release.digest == digest), unknown)


def _with_target(rules: Rules, policy: Policy, release: Release | None) -> Rules:
    targeted = policy.model_copy(update={"target": release})
    policies = (targeted if other.name == policy.name else other for other in rules.policies)
    return replace(rules, policies=tuple(policies))


def _obstacle(policy: Policy, model: str | None, version: str | None) -> str:
    """Why the rollout does not admit a device that it selects."""
    wanted = policy.compatibility
    if wanted.models and model is None:
        return "the model is unknown"
    if wanted.models and model not in wanted.models:
        return "the model is not one of compatibility.models"
    order = versions.compare(version, wanted.min_version)
    if order is None:
        return f"the version is unknown or has no order against {wanted.min_version}"
    return f"the version is older than {wanted.min_version}"
