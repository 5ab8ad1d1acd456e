"""What one device adds to the counts, by the rules and at the present time."""

from collections.abc import Callable
from datetime import UTC, datetime

from otaflux_policy.assessing import Assessment, Spans, assess, terms
from otaflux_policy.contract import Policy
from otaflux_policy.counts import Share, member_share, outcome_share
from otaflux_policy.decisions import Match
from otaflux_server.calendars import NEVER
from otaflux_server.devices import DeviceRecord
from otaflux_server.placing import Placement
from otaflux_server.rules import Rules
from otaflux_server.spaces import Weight

_NO_ATTEMPT = Assessment()
_JUST_AFTER = 1e-3
"""At the very time that ends `activeWithin` a device still is active."""


class Weigher:
    """Weighs devices at the time of `clock` (seconds since 1970).

    `scan_seconds`: a device that no group names exactly counts once its polls lie so far apart.
    `restored_at` (seconds since 1970): devices not heard of since have not succeeded.
    """

    def __init__(self, spans: Spans, scan_seconds: float, clock: Callable[[], float]) -> None:
        self.scan_seconds = scan_seconds
        self.restored_at = -NEVER
        self._spans = spans
        self._clock = clock

    def counted(self, record: DeviceRecord, rules: Rules) -> bool:
        """Whether the device counts: a group names it exactly, or it polled over `scan_seconds`.

        Whatever else asks once may be a scanner that tries ids.
        """
        if rules.groups.names_exactly(record.device.id):
            return True
        first, last = record.first_poll, record.last_poll
        return first is not None and last is not None and last - first >= self.scan_seconds

    def weigh(
        self, record: DeviceRecord, placement: Placement, rules: Rules
    ) -> tuple[Weight, float]:
        """What the device adds by these rules, and when time alone changes that.

        The time is in seconds since 1970.
        """
        at = self._clock()
        now = datetime.fromtimestamp(at, UTC)
        shares: list[tuple[str, Share]] = []
        due, waits, own = NEVER, False, ""
        matched = placement.matched
        if isinstance(matched, Match):
            policy = matched.policy
            own = policy.name
            assessed = self._assess(policy, record, now)
            heard = record.last_seen >= self.restored_at
            seen = datetime.fromtimestamp(record.last_seen, UTC)
            share = member_share(
                policy, matched.ring, record.device, assessed, seen=seen, heard=heard, now=now
            )
            if share is not None:
                shares.append((own, share))
            due = _until(assessed)
            inactive = record.last_seen + policy.active_within
            active = inactive >= at
            if active:
                due = min(due, inactive + _JUST_AFTER)
            waits = not (active and heard)
        for name in record.attempts:
            lost = _policy(rules, name) if name != own else None
            if lost is None:
                continue
            assessed = self._assess(lost, record, now)
            due = min(due, _until(assessed))
            outcome = outcome_share(lost, assessed)
            if outcome is not None:
                shares.append((name, outcome))
        counted = self.counted(record, rules)
        if not counted:
            # Its polls are of no interest before one of them can make it count.
            enough = NEVER if record.first_poll is None else record.first_poll + self.scan_seconds
            if at < enough < NEVER:
                due = min(due, enough)
            else:
                waits = True
        return Weight(tuple(shares), placement.shadowed, counted, waits), due

    def _assess(self, policy: Policy, record: DeviceRecord, now: datetime) -> Assessment:
        known = record.attempts.get(policy.name)
        if not known:
            return _NO_ATTEMPT
        judged_by = terms(policy, self._spans, reports=record.reports)
        return assess(policy, known, judged_by, now)


def _until(assessed: Assessment) -> float:
    where = assessed.standing
    return where.until.timestamp() if where is not None and where.until is not None else NEVER


def _policy(rules: Rules, name: str) -> Policy | None:
    return next((policy for policy in rules.policies if policy.name == name), None)
