"""What the server learns of devices: joined in memory, recorded in the database behind it."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

from otaflux_policy import versions
from otaflux_policy.assessing import has_bytes, relevant, terms
from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import Match
from otaflux_policy.devices import Device
from otaflux_policy.evidence import Standing, standing
from otaflux_policy.facts import Facts
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Pin,
    RunKey,
    Running,
    Said,
)
from otaflux_server.policies import PolicyStore

_KEPT_ATTEMPTS = 4
"""Attempts of a device in one rollout that are kept whether or not a decision looks at them."""
_REMEMBERED_RUNS = 10_000
_NO_PIN = ""


class Records(Protocol):
    """Where facts are written behind (`Recorder`)."""

    def record(self, key: AttemptKey, facts: Facts) -> None:
        """Facts of an attempt."""

    def contact(self, key: DeviceKey, facts: DeviceFacts) -> None:
        """Facts of a device."""


class Follows(Protocol):
    """Who is told of changes (`Counting`)."""

    def changed(self, record: DeviceRecord) -> None:
        """Something of the device changed."""


class Learning:
    """Joins what is heard of devices, here or elsewhere. On the server's event loop only."""

    def __init__(
        self,
        policies: PolicyStore,
        decisions: Decisions,
        recorder: Records,
        counting: Follows,
        *,
        contact_seconds: float,
        pin_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offered: dict[tuple[str, str], DeviceRecord] = {}
        """Devices with an offer that stands and was not taken up yet."""
        self.left_out: dict[RunKey, None] = {}
        """Runs of which facts are in the database that are not in memory."""
        self.newest_runs: dict[tuple[str, str], int] = {}
        """The highest run of which facts are known, by namespace and rollout."""
        self._policies = policies
        self._decisions = decisions
        self._recorder = recorder
        self._counting = counting
        self._contact_seconds = contact_seconds
        self._pin_seconds = pin_seconds
        self._clock = clock
        self._monotonic = monotonic

    # Attempts

    def learn(self, record: DeviceRecord, rollout: str, ref: AttemptRef, facts: Facts) -> None:
        """Joins and records facts of an attempt."""
        if self._join(record, rollout, ref, facts):
            namespace, device = record.key
            self._recorder.record(AttemptKey(namespace, rollout, *ref, device), facts)

    def told(self, record: DeviceRecord, rollout: str, ref: AttemptRef, facts: Facts) -> None:
        """Joins facts that the database gave, unless no decision looks at them any more."""
        owner = (record.device.namespace, rollout)
        if ref.run > self.newest_runs.get(owner, 0):
            self.newest_runs[owner] = ref.run
        policy = self._policies.policy(record.device.namespace, rollout)
        known = record.attempts.get(rollout)
        is_past = policy is not None and ref.run < policy.run and ref not in relevant(policy)
        if is_past and (known is None or ref not in known):
            self._leave_out(RunKey(record.device.namespace, rollout, ref.run))
            return
        self._join(record, rollout, ref, facts)

    def standing(
        self, record: DeviceRecord, rollout: str, facts: Facts | None, now: datetime
    ) -> Standing | None:
        """How far an attempt with these facts of the device is."""
        policy = self._policies.policy(record.device.namespace, rollout)
        if policy is None or facts is None:
            return None
        return standing(facts, terms(policy, self._decisions.spans, reports=record.reports), now)

    def _join(self, record: DeviceRecord, rollout: str, ref: AttemptRef, facts: Facts) -> bool:
        """Whether that was news."""
        attempts = record.attempts.setdefault(rollout, {})
        known = attempts.get(ref)
        joined = facts if known is None else known.join(facts)
        if joined == known:
            return False
        if known is None:
            self._make_room(record, rollout, attempts)
        attempts[ref] = joined
        now = moment(self._clock())
        before = self.standing(record, rollout, known, now)
        after = self.standing(record, rollout, joined, now)
        self._note_offer(record, rollout, ref, joined)
        if before == after and known is not None and _began(known) == _began(joined):
            return True
        self._note_running(record, ref, joined, before, after)
        self.change(record)
        return True

    def _make_room(
        self, record: DeviceRecord, rollout: str, attempts: dict[AttemptRef, Facts]
    ) -> None:
        namespace = record.device.namespace
        policy = self._policies.policy(namespace, rollout)
        if policy is None or len(attempts) < _KEPT_ATTEMPTS:
            return
        kept = relevant(policy)
        for ref in [ref for ref in attempts if ref not in kept and ref.run < policy.run]:
            del attempts[ref]
            self._leave_out(RunKey(namespace, rollout, ref.run))

    def _leave_out(self, run: RunKey) -> None:
        self.left_out[run] = None
        if len(self.left_out) > _REMEMBERED_RUNS:
            del self.left_out[next(iter(self.left_out))]

    def _note_offer(
        self, record: DeviceRecord, rollout: str, ref: AttemptRef, facts: Facts
    ) -> None:
        if _is_untaken(facts):
            if record.offered is None or record.offered[1].run <= ref.run:
                record.offered = (rollout, ref)
                self.offered[record.key] = record
        elif record.offered == (rollout, ref):
            record.offered = None
            self.offered.pop(record.key, None)

    def _note_running(
        self,
        record: DeviceRecord,
        ref: AttemptRef,
        facts: Facts,
        before: Standing | None,
        after: Standing | None,
    ) -> None:
        runs = after is not None and after.state is AttemptState.UPDATED
        ran = before is not None and before.state is AttemptState.UPDATED
        if runs and (not ran or record.device.digest is None):
            self._run(record, ref.digest, _last_heard(facts))
        elif ran and not runs and record.device.digest == ref.digest:
            self._run(record, None, moment(self._clock()))

    def _run(self, record: DeviceRecord, digest: str | None, at: datetime) -> None:
        """The device runs the release since `at`; what it runs since a later time stays."""
        if record.device.digest == digest:
            return
        since = record.running_since or at
        if digest is not None and at < since:
            return
        _set_digest(record, digest)
        record.running_since = max(at, since)
        self.contact(record)

    # Devices

    def change(self, record: DeviceRecord) -> None:
        """Something changed that decisions and counts look at."""
        record.cached = None
        record.due = 0.0
        self._counting.changed(record)

    def says(self, record: DeviceRecord, version: str | None, model: str | None) -> None:
        """The device says what it is and runs, now; None: it is silent about it."""
        device = record.device
        if device.version == version and device.model == model:
            return
        at = moment(record.last_seen)
        if version is not None and version != device.version and device.digest is not None:
            known = self._version_of(record, device.digest)
            if not versions.same(known, version):
                self._run(record, None, at)
        if version is not None and not record.reports:
            record.reports = True
            record.reported_first = at
        record.device = Device(device.namespace, device.id, model, version, record.device.digest)
        record.said_at = at
        record.contact_due = 0.0
        self.change(record)

    def pin(self, record: DeviceRecord, digest: str | None, *, written: bool = False) -> None:
        """The device was told of the artifact; None: that is taken back.

        `written`: the database knows it already.
        """
        if digest is None and record.pinned is None:
            return
        news = record.pinned != digest
        record.pinned = digest
        record.pinned_at = self._clock()
        record.pinned_until = self._monotonic() + self._pin_seconds
        if news and not written:
            self.contact(record)

    def pin_of(self, digest: str) -> Pin:
        """What to keep of a pin that is made now."""
        return self._pin(digest, self._clock())

    def _pin(self, digest: str, at: float) -> Pin:
        # Polls that renew it are written only so often.
        lasting = self._pin_seconds + self._contact_seconds if digest != _NO_PIN else 0
        return Pin(moment(at), digest, moment(at) + timedelta(seconds=lasting))

    def contact(self, record: DeviceRecord) -> None:
        """Records what is known of the device."""
        device, said_at, since = record.device, record.said_at, record.running_since
        facts = DeviceFacts(
            first_seen=moment(record.first_seen),
            last_seen=moment(record.last_seen),
            first_poll=None if record.first_poll is None else moment(record.first_poll),
            last_poll=None if record.last_poll is None else moment(record.last_poll),
            said=None if said_at is None else _said(said_at, device),
            reported_first=record.reported_first,
            running=None if since is None else Running(since, device.digest or ""),
            pin=self._pin(record.pinned or _NO_PIN, record.pinned_at) if record.pinned_at else None,
        )
        record.contact_due = record.last_seen + self._contact_seconds
        self._recorder.contact(DeviceKey(*record.key), facts)

    def told_of(self, record: DeviceRecord, facts: DeviceFacts) -> None:
        """Joins what the database knows of the device."""
        first, last = facts.first_seen.timestamp(), facts.last_seen.timestamp()
        news = last > record.last_seen and record.dormant
        record.first_seen = min(record.first_seen, first)
        record.last_seen = max(record.last_seen, last)
        if facts.first_poll is not None:
            polled = facts.first_poll.timestamp()
            record.first_poll = min(record.first_poll or polled, polled)
        if facts.last_poll is not None:
            record.last_poll = max(record.last_poll or 0.0, facts.last_poll.timestamp())
        if facts.reported_first is not None:
            news |= not record.reports
            record.reports = True
            record.reported_first = min(
                record.reported_first or facts.reported_first, facts.reported_first
            )
        said, running, pin = facts.said, facts.running, facts.pin
        if said is not None and (record.said_at is None or said.at > record.said_at):
            device = record.device
            record.said_at = said.at
            told = (said.model or None, said.version or None)
            if told != (device.model, device.version):
                record.device = Device(device.namespace, device.id, *told, device.digest)
                news = True
        if running is not None and (
            record.running_since is None or running.at > record.running_since
        ):
            record.running_since = running.at
            news |= _set_digest(record, running.digest or None)
        if pin is not None and pin.at.timestamp() > record.pinned_at:
            left = min((pin.until.timestamp() - self._clock()), self._pin_seconds)
            record.pinned = pin.digest or None
            record.pinned_at = pin.at.timestamp()
            record.pinned_until = self._monotonic() + left
        if news:
            self.change(record)

    def resume(self, record: DeviceRecord, before: DeviceRecord) -> None:
        """The device is back whose record was given up: what that knew counts on.

        Save for what the device says now.
        """
        kept = {"last_seen", "last_poll", "protocol", "cached", "place", "dormant"}
        if record.report is not None:
            kept |= {"report", "reported_at"}
        said = None if record.said_at is None else record.device
        for name in DeviceRecord.__slots__:
            if name not in kept:
                setattr(record, name, getattr(before, name))
        record.unread = False
        if record.offered is not None:
            self.offered[record.key] = record
        if said is not None:
            self.says(record, said.version, said.model)
        self.change(record)

    def _version_of(self, record: DeviceRecord, digest: str) -> str | None:
        matched = self._decisions.placed(record).matched
        return version_of(matched.policy, digest) if isinstance(matched, Match) else None


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as an aware time."""
    return datetime.fromtimestamp(seconds, UTC)


def version_of(policy: Policy, digest: str) -> str | None:
    """The version of the release with this manifest digest, if the policy names it."""
    for release in (policy.target, policy.stable, *policy.rollback_from):
        if release is not None and release.digest == digest:
            return release.version
    return None


def refs_of(policy: Policy) -> Mapping[AttemptRef, str]:
    """The attempts of the policy's run, and those of releases since the stable one: versions."""
    current = (policy.stable,) if policy.rolling_back else (policy.target, policy.stable)
    known = {
        AttemptRef(policy.run, release.digest): release.version
        for release in current
        if release is not None
    }
    for gone in policy.rollback_from:
        known.setdefault(AttemptRef(gone.run, gone.digest), gone.version)
    return known


def _said(at: datetime, device: Device) -> Said:
    return Said(at, device.model or "", device.version or "")


def _set_digest(record: DeviceRecord, digest: str | None) -> bool:
    device = record.device
    if device.digest == digest:
        return False
    record.device = Device(device.namespace, device.id, device.model, device.version, digest)
    return True


def _last_heard(facts: Facts) -> datetime:
    """When the device told last, or its polls did, that it runs the release."""
    told = [facts.target_last, *(download.last_poll for download in facts.downloads)]
    return max(at for at in told if at is not None)


def _began(facts: Facts) -> tuple[bool, bool]:
    return facts.first_offer is not None, has_bytes(facts)


def _is_untaken(facts: Facts) -> bool:
    """Whether an offer stands of which no byte was fetched."""
    offered, ended = facts.last_offer, facts.offer_ended
    if offered is None or has_bytes(facts) or facts.target_first is not None:
        return False
    return ended is None or ended < offered
