"""Devices as people see them, page by page, and by what they are searched for."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from otaflux_policy.assessing import terms
from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.counts import Share
from otaflux_policy.decisions import Match
from otaflux_policy.evidence import standing
from otaflux_policy.facts import Facts
from otaflux_policy.models import ContractModel
from otaflux_policy.reasons import DecisionReason
from otaflux_server.attempts import AttemptView, attempt_view
from otaflux_server.counting import Counting
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceKey, DeviceRecord, Devices
from otaflux_server.policies import PolicyStore
from otaflux_server.slices import Slices

PENDING: Final = "Pending"
"""The state of a device that was not offered its rollout's release, nor runs it."""

DeviceState = AttemptState | Literal["Pending"]
"""How far a device is with its rollout's release."""


class ReportView(ContractModel):
    """What a device said of an update last."""

    at: datetime
    release: str
    state: str
    code: str | None
    message: str | None


class DeviceView(ContractModel):
    """A device that is known.

    `rollout` and `ring` are where it counts, `state` how far it is there (None: in no rollout, or
    not counted yet). `counted`: it is no possible scanner. `reason` is that of this server's last
    answer (None: it answered no poll since it started), `offered` the version that the device may
    have now.
    """

    namespace: str
    device: str
    protocol: str
    version: str | None
    model: str | None
    digest: str | None
    attributes: dict[str, str]
    first_seen: datetime
    last_seen: datetime
    reason: DecisionReason | None
    rollout: str | None
    ring: str | None
    state: DeviceState | None
    counted: bool
    offered: str | None
    downloaded: str | None
    downloaded_at: datetime | None
    report: ReportView | None


class DeviceDetail(DeviceView):
    """A device, and all its attempts that are in memory, the newest run first."""

    attempts: tuple[AttemptView, ...]


class DevicePage(ContractModel):
    """One page; `next` is the parameter `after` of the following one, None at the end."""

    devices: tuple[DeviceView, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What devices are searched for; None: anything. `seen_since` in seconds since 1970."""

    namespace: str | None = None
    rollout: str | None = None
    ring: str | None = None
    group: str | None = None
    reason: DecisionReason | None = None
    state: DeviceState | None = None
    version: str | None = None
    model: str | None = None
    seen_since: float | None = None


class Listing:
    """Looks devices up. One search at a time, in slices: polls are answered in between."""

    def __init__(
        self,
        devices: Devices,
        policies: PolicyStore,
        counting: Counting,
        decisions: Decisions,
        clock: Callable[[], float],
    ) -> None:
        self._devices = devices
        self._policies = policies
        self._counting = counting
        self._decisions = decisions
        self._clock = clock

    async def page(
        self, search: Search, limit: int, after: DeviceKey | None, slices: Slices | None = None
    ) -> DevicePage:
        """Up to `limit` devices in order of namespace and id, those behind `after`."""
        slices = slices or Slices()
        found: list[DeviceKey] = []
        # All that is behind the last one found that still is of use.
        last: DeviceKey | None = None
        keys = self._devices.keys()
        for key in keys:
            if slices.over:
                await slices.rest()
            if (after is not None and key <= after) or (last is not None and key > last):
                continue
            record = self._devices.get(*key)
            if record is None or not self._fits(record, search):
                continue
            found.append(key)
            if len(found) > 4 * limit + 256:
                found = heapq.nsmallest(limit + 1, found)
                last = found[-1]
        chosen = heapq.nsmallest(limit + 1, found)
        views: list[DeviceView] = []
        for key in chosen[:limit]:
            if slices.over:
                await slices.rest()
            record = self._devices.get(*key)
            if record is not None:
                views.append(self.view(record))
        more = len(chosen) > limit
        return DevicePage(devices=tuple(views), next="/".join(chosen[limit - 1]) if more else None)

    def view(self, record: DeviceRecord) -> DeviceView:
        """The device."""
        return DeviceView.model_validate(self._fields(record))

    def detail(self, record: DeviceRecord) -> DeviceDetail:
        """The device with its attempts."""
        attempts = [
            (ref, rollout, facts)
            for rollout, known in record.attempts.items()
            for ref, facts in known.items()
        ]
        attempts.sort(key=lambda attempt: (-attempt[0].run, attempt[1], attempt[0].digest))
        views = tuple(
            self._attempt(record, rollout, ref, facts) for ref, rollout, facts in attempts
        )
        return DeviceDetail.model_validate(self._fields(record) | {"attempts": views})

    def _attempt(
        self, record: DeviceRecord, rollout: str, ref: AttemptRef, facts: Facts
    ) -> AttemptView:
        policy = self._policies.policy(record.device.namespace, rollout)
        judged = None
        if policy is not None:
            now = datetime.fromtimestamp(self._clock(), UTC)
            judged = standing(
                facts, terms(policy, self._decisions.spans, reports=record.reports), now
            )
        return attempt_view(rollout, ref, facts, judged)

    def _fields(self, record: DeviceRecord) -> dict[str, object]:
        device, report, transfer = record.device, record.report, record.transfer
        release = self._decisions.decide(record).decision.release
        policy, ring, state = self._place(record)
        return {
            "namespace": device.namespace,
            "device": device.id,
            "protocol": record.protocol,
            "version": device.version,
            "model": device.model,
            "digest": device.digest,
            "attributes": dict(record.attributes),
            "first_seen": _time(record.first_seen),
            "last_seen": _time(record.last_seen),
            "reason": record.reason,
            "rollout": policy.name if policy is not None else None,
            "ring": ring,
            "state": state,
            "counted": self._counting.counted(record),
            "offered": release.version if release is not None else None,
            "downloaded": transfer.digest if transfer else None,
            "downloaded_at": _time(transfer.at) if transfer else None,
            "report": None
            if report is None
            else ReportView(
                at=_time(record.reported_at or record.last_seen),
                release=report.release,
                state=report.state,
                code=report.code,
                message=report.message,
            ),
        }

    def _place(self, record: DeviceRecord) -> tuple[Policy | None, str | None, DeviceState | None]:
        """The rollout that has the device, the ring that it counts in, and its state there."""
        place = record.place
        if place is None or not isinstance(place.matched, Match):
            return None, None, None
        policy, ring = place.matched.policy, place.matched.ring
        share = self._share(record, policy.name)
        if share is None:
            return policy, ring.name if ring is not None else None, None
        return policy, share.ring or None, share.state or PENDING

    def _share(self, record: DeviceRecord, rollout: str) -> Share | None:
        weight = self._counting.weight(record)
        if weight is None:
            return None
        return next(
            (share for name, share in weight.shares if name == rollout and share.member), None
        )

    def _fits(self, record: DeviceRecord, search: Search) -> bool:
        device = record.device
        if search.namespace is not None and device.namespace != search.namespace:
            return False
        if search.version is not None and device.version != search.version:
            return False
        if search.reason is not None and record.reason is not search.reason:
            return False
        if search.seen_since is not None and record.last_seen < search.seen_since:
            return False
        if search.rollout is not None or search.ring is not None or search.state is not None:
            policy, ring, state = self._place(record)
            if search.rollout is not None and (policy is None or policy.name != search.rollout):
                return False
            if search.ring is not None and ring != search.ring:
                return False
            if search.state is not None and state is not search.state:
                return False
        if search.model is None and search.group is None:
            return True
        groups = self._policies.rules(device.namespace).groups
        if search.model is not None and search.model != (device.model or groups.model(device.id)):
            return False
        return search.group is None or any(
            group.name == search.group for group in groups.of(device.id)
        )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
