"""What must hold of every answer, decision and trip of a server."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from otaflux_policy import versions
from otaflux_policy.assessing import deciding
from otaflux_policy.attempts import AttemptRef
from otaflux_policy.contract import Downgrade, Policy, State
from otaflux_policy.counts import (
    RingCounts,
    RolloutCounts,
    Trip,
)
from otaflux_policy.decisions import Decision
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.windows import Window
from tests.machine.records import Known, Log

if TYPE_CHECKING:
    from tests.machine.servers import Server

DOWNLOADS = 3


def check_breaker(policy: Policy, counts: RolloutCounts, opened: Trip | None) -> None:
    """It opens for the run that goes on where a rule is broken, and nowhere else."""
    broken = [
        ring.name
        for ring in policy.rings
        if ring.open
        and ring.failure is not None
        and _fails(counts.ring(ring.name), ring.failure.min_sample, ring.failure.max_percent)
    ]
    stable, target = policy.stable, policy.target
    ended = (
        target is None
        or policy.rolling_back
        or policy.state is State.ABORTED
        or (stable is not None and stable.digest == target.digest)
    )
    if opened is None:
        assert ended or not broken, "the breaker stays shut"
    else:
        assert not ended, "the breaker opens after the end"
        assert opened.ring in broken, "the breaker opens for nothing"


def _fails(counts: RingCounts, sample: int, percent: int) -> bool:
    outcomes = counts.failed_outcomes + counts.updated_outcomes
    return outcomes >= sample and counts.failed_outcomes * 100 > percent * outcomes


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """By arithmetic of its own, for schedules at full hours: `0 * * * *`, `0 2 * * *`."""
    windows = tuple(windows)
    return not windows or any(
        opened <= now < opened + timedelta(seconds=window.duration)
        for window in windows
        for opened in _openings(window, now)
    )


def _openings(window: Window, now: datetime) -> list[datetime]:
    """Those of today and yesterday, as it is there."""
    minute, hour, *rest = window.schedule.split()
    assert (minute, rest) == ("0", ["*"] * 3)
    here = now.astimezone(ZoneInfo(window.time_zone))
    days = (here - timedelta(days=1), here, here + timedelta(days=1))
    hours = range(24) if hour == "*" else (int(hour),)
    return [
        day.replace(hour=hour, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)
        for day in days
        for hour in hours
    ]


def states(counts: RingCounts) -> int:
    fields = (
        "pending offered downloading downloaded installing updated failed timed_out withdrawn "
        "not_requested"
    )
    return sum(getattr(counts, name) for name in fields.split())


def check_decision(server: "Server", known: Known, decision: Decision) -> None:
    """What no answer may be."""
    policy, release = server.policy, decision.release
    assert policy is not None
    if release is None:
        return
    device, reason = known.device, decision.reason
    assert release.firmware.digest in server.stored, "offered, but not stored"
    models = policy.compatibility.models
    model = device.model or server.groups.model(device.id)
    assert not models or model in models, "offered to an incompatible model"
    least = policy.compatibility.min_version
    if least is not None:
        assert versions.compare(device.version, least) in (0, 1), "offered below minVersion"
    labels = server.groups.labels(device.id)
    assert policy.device_selector.matches(device.id, labels), "offered to another's device"
    ref = AttemptRef(policy.run, release.digest)
    log = server.log.get((device.id, ref), Log())
    if ref == deciding(policy):
        assert not log.has_failed, "offered what failed on the device"
        timed_out = log.timed_out(server.clock(), policy.device_timeout)
        assert not timed_out, "offered what timed out on the device"
        over_and_over = len(log.downloads) >= DOWNLOADS and log.good is None
        assert not over_and_over, "offered what was downloaded over and over"
    says = versions.compare(device.version, release.version)
    if reason is DecisionReason.UP_TO_DATE:
        was_good = log.good is not None or log.downloads or device.digest == release.digest
        assert was_good or says == 0, "taken to run what it does not"
        return
    assert policy.state is State.ACTIVE, f"offered although {policy.state}"
    if reason is DecisionReason.ROLLING_BACK:
        assert policy.rolling_back
        assert policy.stable is not None
        assert release.digest == policy.stable.digest
        return
    if policy.target is not None and release.digest == policy.target.digest:
        closed_run = policy.stable is not None and policy.stable.digest == release.digest
        ring = next((ring for ring in policy.rings if ring.name == decision.ring), None)
        if not closed_run:
            assert ring is not None
            assert ring.open, "the ring is closed"
            assert not policy.rolling_back, "offered what is taken back"
    else:
        assert policy.stable is not None
        assert release.digest == policy.stable.digest, "offered neither target nor stable"
        assert says != 1, "taken below what it runs"
        assert device.version is None or says is not None, "taken from what has no order"
        assert is_open(policy.windows, server.clock()), "stable outside of every window"
    if policy.downgrade is Downgrade.FORBID:
        assert says != 1, "a forbidden downgrade"
