"""How far the devices of a rollout are, in numbers: what one adds, their sum, and the breaker.

Every device that a rollout has counts once: in the ring of its offer in this run where the ring
still exists and the offer was not withdrawn, else in its current one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from otaflux_policy.assessing import Assessment
from otaflux_policy.attempts import UNSUCCESSFUL, AttemptState
from otaflux_policy.contract import Digest, Policy, Ring, State
from otaflux_policy.decisions import runs, touched
from otaflux_policy.devices import Device
from otaflux_policy.models import ContractModel

CODES = 16
"""Failure codes that are counted apart, the most frequent ones; the rest are `Other`."""

KEPT_CODES = 1000
"""Codes of one ring that a sum keeps apart, the first ones: devices may make up any number."""

OTHER = "Other"


class RingCounts(ContractModel):
    """Devices of one ring; the states (`pending` … `not_requested`) add up to `members`.

    `pending`: neither offered the release in this run nor known to run it. `active`: those that
    success is measured against (seen within `activeWithin`, or their attempt got under way; not
    the ones that never request what they are offered), `succeeded` of them run the release.
    `updated_outcomes` and `failed_outcomes` are what the breaker looks at: devices whose attempt
    began in this run and in this ring, wherever they are now. In a rollback only devices that it
    concerns are members, the states are those of their way back, and `restored` have come back.
    `codes` counts the `failed` ones by why: `CODES` of them, and the rest as `Other`. `uncounted`
    are ids that may be scanners': they are no members, and in no other number here.
    """

    name: str
    members: int = 0
    active: int = 0
    succeeded: int = 0
    pending: int = 0
    offered: int = 0
    downloading: int = 0
    downloaded: int = 0
    installing: int = 0
    updated: int = 0
    failed: int = 0
    timed_out: int = 0
    withdrawn: int = 0
    not_requested: int = 0
    updated_outcomes: int = 0
    failed_outcomes: int = 0
    restored: int = 0
    uncounted: int = 0
    codes: dict[str, int] = {}

    @property
    def in_flight(self) -> int:
        """Devices between offer and outcome."""
        return self.offered + self.downloading + self.downloaded + self.installing

    @property
    def began(self) -> int:
        """Devices that were offered the release, or run it without."""
        return self.members - self.pending


class RolloutCounts(ContractModel):
    """The counts of one run, counted at `at` by the policy `revision`.

    `unplaced` counts devices of the rollout that are in no ring, `shadowed` those that it selects
    and another rollout has.
    """

    revision: str
    release: Digest | None
    run: int
    at: AwareDatetime
    rings: tuple[RingCounts, ...] = ()
    unplaced: RingCounts = RingCounts(name="")
    shadowed: int = 0

    def ring(self, name: str) -> RingCounts:
        """The counts of the ring with this name."""
        return next((ring for ring in self.rings if ring.name == name), RingCounts(name=name))

    @property
    def total(self) -> RingCounts:
        """All rings, and devices in none, together."""
        return _sum("", (*self.rings, self.unplaced))


class Trip(ContractModel):
    """The breaker opened: `failed` of the ring's `failed + updated` outcomes were too many."""

    run: int
    ring: str
    failed: int
    updated: int
    at: AwareDatetime

    @property
    def percent(self) -> int:
        """The share of failures, rounded down."""
        return self.failed * 100 // max(1, self.failed + self.updated)


@dataclass(frozen=True, slots=True)
class Share:
    """What one device adds to the counts of one rollout.

    `ring` and `outcome_ring` are empty where it is in none. A device that is no `member` (any
    more) may still have an outcome.
    """

    member: bool
    ring: str
    state: AttemptState | None
    active: bool = False
    succeeded: bool = False
    outcome_ring: str = ""
    code: str = ""
    restored: bool = False


_FIELDS = {
    None: "pending",
    AttemptState.OFFERED: "offered",
    AttemptState.DOWNLOADING: "downloading",
    AttemptState.DOWNLOADED: "downloaded",
    AttemptState.INSTALLING: "installing",
    AttemptState.UPDATED: "updated",
    AttemptState.FAILED: "failed",
    AttemptState.TIMED_OUT: "timed_out",
    AttemptState.WITHDRAWN: "withdrawn",
    AttemptState.NOT_REQUESTED: "not_requested",
}
_UNDER_WAY = frozenset(
    {
        AttemptState.DOWNLOADING,
        AttemptState.DOWNLOADED,
        AttemptState.INSTALLING,
        AttemptState.UPDATED,
        AttemptState.FAILED,
        AttemptState.TIMED_OUT,
    }
)
_UNTAKEN = frozenset({AttemptState.WITHDRAWN, AttemptState.NOT_REQUESTED})


def member_share(
    policy: Policy,
    ring: Ring | None,
    device: Device,
    assessed: Assessment,
    *,
    seen: datetime,
    heard: bool = True,
    now: datetime,
) -> Share | None:
    """What a device adds to the rollout that has it (`match`); None: nothing.

    `seen` is when it was heard of last; `heard`: since the evidence was restored from a copy.
    """
    if policy.rolling_back and not (touched(policy, device, assessed.attempt) or assessed.ran):
        return None
    current = ring.name if ring is not None else ""
    state = assessed.standing.state if assessed.standing is not None else None
    release = policy.stable if policy.rolling_back else policy.target
    # What a device said before the release to take back went to it is no word of its way back.
    has_bytes = assessed.attempt is not None and assessed.attempt.touched
    believed = assessed.standing is None and not (policy.rolling_back and has_bytes)
    if believed and release is not None and runs(device, release):
        state = AttemptState.UPDATED
    began = assessed.began and state in _UNDER_WAY
    recent = seen >= now - timedelta(seconds=policy.active_within)
    active = (began or recent) and state is not AttemptState.NOT_REQUESTED
    restored = state is AttemptState.UPDATED or (
        state is not AttemptState.FAILED
        and assessed.facts is not None
        and bool(assessed.facts.downloads)
    )
    return Share(
        member=True,
        ring=current if state in _UNTAKEN else _ring_of_offer(policy, assessed) or current,
        state=state,
        active=active,
        succeeded=active and heard and state is AttemptState.UPDATED,
        outcome_ring=_outcome_ring(policy, assessed, current),
        code=_code(assessed),
        restored=policy.rolling_back and restored,
    )


def outcome_share(policy: Policy, assessed: Assessment) -> Share | None:
    """What a device adds to a rollout that has it no more; None: nothing."""
    ring = _outcome_ring(policy, assessed)
    if not ring or assessed.standing is None:
        return None
    return Share(False, "", assessed.standing.state, outcome_ring=ring)


class Tally:
    """The sum of the shares of one rollout's devices."""

    def __init__(self) -> None:
        self._rings: dict[str, Counter[str]] = {}
        self._codes: dict[str, Counter[str]] = {}

    def add(self, share: Share) -> None:
        """One device more."""
        self._change(share, 1)

    def remove(self, share: Share) -> None:
        """One device less: a share that was added before."""
        self._change(share, -1)

    def note(self, share: Share, by: int) -> None:
        """One id more (1) or less (-1) that may be a scanner's, and would add this share."""
        if share.member:
            self._rings.setdefault(share.ring, Counter())["uncounted"] += by

    def ring(self, name: str) -> RingCounts:
        """The counts of one ring; that without a name: of devices in none."""
        codes = _most_frequent(self._codes.get(name, {}))
        return RingCounts(name=name, codes=codes, **self._rings.get(name, Counter[str]()))

    def counts(self, policy: Policy, now: datetime, *, shadowed: int = 0) -> RolloutCounts:
        """All of them, as of `now`."""
        return RolloutCounts(
            revision=policy.revision,
            release=policy.target.digest if policy.target is not None else None,
            run=policy.run,
            at=now,
            rings=tuple(self.ring(ring.name) for ring in policy.rings),
            unplaced=self.ring(""),
            shadowed=shadowed,
        )

    def _change(self, share: Share, by: int) -> None:
        if share.member:
            counter = self._rings.setdefault(share.ring, Counter())
            counter["members"] += by
            counter[_FIELDS[share.state]] += by
            counter["active"] += by * share.active
            counter["succeeded"] += by * share.succeeded
            counter["restored"] += by * share.restored
            if share.code:
                codes = self._codes.setdefault(share.ring, Counter())
                full = by < 0 or len(codes) >= KEPT_CODES
                code = OTHER if full and share.code not in codes else share.code
                codes[code] += by
                if not codes[code]:
                    del codes[code]
        if share.outcome_ring:
            counter = self._rings.setdefault(share.outcome_ring, Counter())
            good = share.state is AttemptState.UPDATED
            counter["updated_outcomes" if good else "failed_outcomes"] += by


def trip(policy: Policy, counts: RolloutCounts, now: datetime) -> Trip | None:
    """Whether the breaker of the policy's run opens: too many failures in a ring that is open.

    None where the run has ended, and where the counts are of another one.
    """
    target, stable = policy.target, policy.stable
    if target is None or (counts.run, counts.release) != (policy.run, target.digest):
        return None
    completed = stable is not None and target.digest == stable.digest
    if completed or policy.rolling_back or policy.state is State.ABORTED:
        return None
    for ring in policy.rings:
        rule, known = ring.failure, counts.ring(ring.name)
        failed, updated = known.failed_outcomes, known.updated_outcomes
        if not ring.open or rule is None or failed + updated < rule.min_sample:
            continue
        if failed * 100 > rule.max_percent * (failed + updated):
            return Trip(run=policy.run, ring=ring.name, failed=failed, updated=updated, at=now)
    return None


def _ring_of_offer(policy: Policy, assessed: Assessment) -> str:
    facts = assessed.facts
    if facts is None or facts.first_offer is None:
        return ""
    name = facts.first_offer.ring
    return name if any(ring.name == name for ring in policy.rings) else ""


def _outcome_ring(policy: Policy, assessed: Assessment, current: str = "") -> str:
    """The ring that an outcome of this run belongs to; empty where there is none.

    A ring that is renamed or deleted in flight takes no failure out of the count: the outcome
    then belongs to the device's `current` ring.
    """
    if policy.rolling_back or not assessed.began or assessed.standing is None:
        return ""
    state = assessed.standing.state
    if state is not AttemptState.UPDATED and state not in UNSUCCESSFUL:
        return ""
    return _ring_of_offer(policy, assessed) or current


def _code(assessed: Assessment) -> str:
    where = assessed.standing
    if where is None or where.state is not AttemptState.FAILED:
        return ""
    return where.code or OTHER


def _sum(name: str, parts: tuple[RingCounts, ...]) -> RingCounts:
    total: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for part in parts:
        values = part.model_dump(by_alias=False, exclude={"name", "codes"})
        total.update(values)
        codes.update(part.codes)
    return RingCounts(name=name, codes=_most_frequent(codes), **total)


def _most_frequent(codes: Mapping[str, int]) -> dict[str, int]:
    """`CODES` of them, of equals the first by name, so that the order of devices is no matter."""
    ranked = sorted(codes.items(), key=lambda known: (-known[1], known[0]))
    shown = dict(ranked[:CODES])
    if rest := sum(count for _, count in ranked[CODES:]):
        shown[OTHER] = shown.get(OTHER, 0) + rest
    return shown
