"""What devices do and get: the one place where protocols meet decisions and records."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import structlog

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.decisions import Decision
from otaflux_policy.facts import Download, Facts
from otaflux_server.artifacts import ArtifactStore, StoredArtifact
from otaflux_server.coverage import Coverage
from otaflux_server.decisions import Decisions
from otaflux_server.deliveries import Deliveries, Delivery
from otaflux_server.devices import DeviceKey, DeviceRecord, Devices, Report, Transfer
from otaflux_server.hearing import Hearing, said_of
from otaflux_server.learning import Learning, moment
from otaflux_server.metrics import Metrics
from otaflux_server.offers import Database, Offers
from otaflux_server.policies import PolicyStore
from otaflux_server.replies import Reply
from otaflux_server.settings import Settings
from otaflux_server.withdrawals import Withdrawals

log = structlog.get_logger(__name__)

_LEFT = 10_000
"""Devices that left memory and are kept until their facts are written."""
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class Counted(Protocol):
    """Who counts devices (`Counting`)."""

    def changed(self, record: DeviceRecord) -> None:
        """Something of the device changed."""

    def forgotten(self, record: DeviceRecord) -> None:
        """The device is not in memory any more."""


@dataclass(slots=True)
class Asking:
    """Who asks, and what the device says of itself."""

    namespace: str
    device: str
    version: str | None = None
    model: str | None = None
    attributes: Mapping[str, str] | None = None
    report: Report | None = None


class Fleet:
    """The devices of all namespaces, on the server's event loop only.

    Polls are synchronous, but for those whose answer begins an offer: it is claimed before. `run`
    is to run beside: it ends offers that policies withdrew.
    """

    def __init__(
        self,
        decisions: Decisions,
        devices: Devices,
        artifacts: ArtifactStore,
        policies: PolicyStore,
        learning: Learning,
        counting: Counted,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.devices = devices
        self.deliveries = Deliveries()
        self._decisions = decisions
        self._artifacts = artifacts
        self._policies = policies
        self._learning = learning
        self._counting = counting
        self._hearing = Hearing(decisions, learning)
        self._database = database
        self._offers = Offers(
            decisions, learning, database, metrics, clock=clock, monotonic=monotonic
        )
        self._contact_seconds = settings.evidence.contact_seconds
        self._clock = clock
        self._monotonic = monotonic
        # Devices that had to leave memory, until what is known of them is surely written.
        self._left: OrderedDict[DeviceKey, DeviceRecord] = OrderedDict()
        self._withdrawals = Withdrawals(
            policies,
            decisions,
            learning,
            self.deliveries,
            pin_seconds=settings.pin_seconds,
            clock=clock,
            monotonic=monotonic,
        )
        devices.forgets = self._forget
        policies.subscribe(self.rules_changed)

    # What devices do

    def observe(self, protocol: str, asking: Asking) -> DeviceRecord:
        """Records a poll. What it says of the device replaces what earlier ones said.

        A poll that is silent about the version makes it unknown: the device may have been
        updated since it spoke.
        """
        now = self._clock()
        record = self.devices.seen(asking.namespace, asking.device, protocol, now)
        if record.first_poll is None:
            record.first_poll = record.last_poll = now
            record.due = record.contact_due = 0.0
            if not record.unread:
                self._counting.changed(record)
        else:
            if record.last_poll is not None and now < record.last_poll:
                record.due = record.contact_due = 0.0  # the clock went back
            record.last_poll = now
        device = record.device
        if device.version != asking.version or device.model != asking.model:
            self._learning.says(record, asking.version, asking.model)
        elif record.unread:
            record.said_at = moment(now)  # its silence replaces what the database knows, too
        if now >= record.due and record.attempts:
            self._hearing.hear(record, moment(now))
        record.attributes = asking.attributes or _NO_ATTRIBUTES
        return record

    def notice(self, protocol: str, asking: Asking) -> DeviceRecord:
        """Records that a device is there that does not poll (a download, a report).

        What it says of itself counts only while nothing is known from a poll.
        """
        now = self._clock()
        record = self.devices.seen(asking.namespace, asking.device, protocol, now)
        if (
            record.reason is None
            and record.said_at is None
            and not record.unread
            and (asking.version or asking.model)
        ):
            self._learning.says(record, asking.version, asking.model)
        if asking.report is not None:
            record.report = asking.report
            record.reported_at = record.last_seen
            self.metrics.reports.labels(protocol, asking.report.state).inc()
        if now >= record.contact_due and not record.unread:
            self._learning.contact(record)
        return record

    def polled(self, record: DeviceRecord, decision: Decision, *, answered: bool) -> None:
        """Records what a poll tells of attempts, and that the device was there.

        Cheap to call for each poll that has nothing to record (`DeviceRecord.due`). `answered`:
        the device was told of the decision's release.
        """
        now = record.last_seen
        if now < record.due or record.unread:
            return
        if record.dormant:
            self._counting.changed(record)
        if answered:
            news = self._hearing.polled(record, decision, moment(now))
            record.due = min(news, self._next_due(record, now))
        if now >= record.contact_due:
            self._learning.contact(record)

    def reported(self, record: DeviceRecord) -> None:
        """Records what the device reports of a release; of any other it is ignored."""
        if not self._hearing.reported(record):
            self.metrics.reports_ignored.inc()

    # What devices get

    def decide(self, record: DeviceRecord, *, slot: bool = True) -> Decision:
        """What the device gets now; without a `slot` no offer begins."""
        before = record.cached
        decide = self._decisions.decide if slot else self._decisions.without_slot
        cached = decide(record)
        if before is None or cached.policy is not before.policy:
            record.due = 0.0
        if cached is not before and (record.offered is not None or record.pinned is not None):
            self._withdrawals.withdraw(record, cached)
            if record.cached is None:
                return self.decide(record, slot=slot)
        return cached.decision

    def stored(self, record: DeviceRecord) -> StoredArtifact | None:
        """The bytes of the release that was decided on last."""
        return None if record.cached is None else record.cached.artifact

    def begins(self, record: DeviceRecord) -> bool:
        """Whether to answer with what was decided on last begins an offer, to be claimed first."""
        return record.cached is not None and record.cached.begins

    async def claim(self, record: DeviceRecord, *, pins: bool) -> bool:
        """Claims the offer that was decided on last; False: it may not be made now."""
        return await self._offers.claim(record, pins=pins)

    async def read(self, record: DeviceRecord) -> None:
        """Reads what the database knows of a device; as far as it cannot be read: nothing."""
        before = self._left.pop(record.key, None)
        if before is not None:
            self._learning.resume(record, before)
        else:
            await self._offers.read(record)

    @property
    def shared(self) -> bool:
        """Whether other servers may know more of a device than this one."""
        return self._database.shared

    def pin(self, record: DeviceRecord, artifact: StoredArtifact | None) -> None:
        """Binds the device to what it was told, for `pin_seconds`; None: to nothing."""
        self._learning.pin(record, None if artifact is None else artifact.digest)

    def pinned(self, record: DeviceRecord) -> StoredArtifact | None:
        """What the device was told, if that is recent and was not withdrawn since."""
        cached, artifact = record.cached, self.stored(record)
        if cached is None or artifact is None or artifact.digest != record.pinned:
            return None
        told = record.pinned_until - self.settings.pin_seconds
        rollout = (record.device.namespace, cached.decision.rollout or "")
        over = self._monotonic() >= record.pinned_until
        return None if over or self._withdrawals.stopped_since(rollout, told) else artifact

    # Transfers

    def delivery(self, record: DeviceRecord, decision: Decision, reply: Reply) -> Delivery:
        """The transfer that the reply begins."""
        assert reply.artifact is not None
        digest = decision.release.digest if decision.release is not None else ""
        return Delivery(
            record,
            decision.rollout or "",
            AttemptRef(decision.run, digest),
            decision.release.version if decision.release is not None else "",
            reply.artifact,
            reply.start,
            moment(record.last_seen),
            self._began,
        )

    def delivered(self, delivery: Delivery) -> None:
        """Records what of the artifact went to the device, now that the transfer has ended."""
        record, artifact = self._receiver(delivery), delivery.artifact
        start, end = delivery.start, delivery.start + delivery.sent
        coverage = record.coverage
        whole = start == 0 and end == artifact.size
        if whole or coverage is None or coverage.digest != artifact.digest:
            coverage = record.coverage = Coverage(artifact.digest, artifact.size, delivery.asked)
        coverage.add(start, end)
        if not coverage.complete:
            return
        record.coverage = None
        record.transfer = Transfer(self._clock(), artifact.digest)
        self._artifacts.used(artifact.digest)
        complete = Download(coverage.started, moment(self._clock()))
        self._learning.learn(record, delivery.rollout, delivery.ref, Facts(downloads=(complete,)))

    async def discard(self, artifact: StoredArtifact) -> None:
        """The artifact's bytes are gone or cut: it is fetched again."""
        await self._artifacts.discard(artifact.digest)

    def _began(self, delivery: Delivery) -> None:
        record, ref = self._receiver(delivery), delivery.ref
        facts = Facts(first_byte=delivery.asked, last_request=delivery.asked)
        if ref not in record.attempts.get(delivery.rollout, {}) and record.last_poll is not None:
            # A device may fetch anew what it said that it runs, without an offer.
            said = record.device.version
            facts = facts.join(said_of(said, ref, delivery.version, moment(record.last_poll)))
        self._learning.learn(record, delivery.rollout, ref, facts)

    def _receiver(self, delivery: Delivery) -> DeviceRecord:
        """The device's record now: it may have left memory, and come back, meanwhile."""
        return self.devices.get(*delivery.record.key) or delivery.record

    def rules_changed(self) -> None:
        """Policies, groups or breakers changed (`Withdrawals.rules_changed`)."""
        self._withdrawals.rules_changed()

    async def run(self) -> None:
        """Ends the offers that are withdrawn, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._withdrawals.run(self.decide))
            tasks.create_task(self._settle_left())

    # Inside

    async def _settle_left(self) -> None:
        """Devices that left memory are left to the database, once their facts are written."""
        recorder = self._database.recorder
        while True:
            await asyncio.sleep(self.settings.evidence.batch_seconds)
            leaving = list(self._left.items())
            if not leaving:
                continue
            await recorder.flush()
            if recorder.failure is not None:
                continue
            for key, record in leaving:
                if self._left.get(key) is record:
                    del self._left[key]

    def _next_due(self, record: DeviceRecord, now: float) -> float:
        due = now + self._contact_seconds
        cached = record.cached
        policy = cached.policy if cached is not None else None
        if policy is not None:
            due = min(due, now + policy.active_within)
        counts_from = (record.first_poll or now) + self.settings.scan_seconds
        return min(due, counts_from) if counts_from > now else due

    def _forget(self, record: DeviceRecord) -> None:
        """There is no room in memory for the device."""
        self._counting.forgotten(record)
        self._learning.offered.pop(record.key, None)
        if record.unread:
            return
        if record.last_seen > record.contact_due - self._contact_seconds:
            self._learning.contact(record)
        left = self._left
        left[record.key] = record
        if len(left) > _LEFT:
            left.popitem(last=False)
