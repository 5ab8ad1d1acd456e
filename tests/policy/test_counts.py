"""What one device adds to the counts in every situation, and what they add up to."""

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy.assessing import Spans, assess, terms
from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import (
    Policy,
    Ring,
)
from otaflux_policy.counts import (
    CODES,
    KEPT_CODES,
    OTHER,
    RingCounts,
    RolloutCounts,
    Share,
    Tally,
    member_share,
    outcome_share,
)
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts, FirstOffer, ReportedFailure
from tests.policy.situations import (
    BACK,
    BEGUN,
    CANARY,
    DAY,
    DOWNLOADED,
    FAILED,
    FLEET,
    HERE,
    INSTALLING,
    LIVE,
    OFFERED,
    OLD,
    ON_TARGET,
    SILENT,
    STABLE,
    START,
    TARGET,
    UPDATED,
    WAY_BACK,
    S,
    at,
)


@dataclass
class Case:
    """A device with `facts` in ring `ring`, seen last at `seen`, looked at at `now`."""

    want: Share | None
    facts: Facts | None = None
    device: Device = OLD
    ring: Ring | None = CANARY
    now: float = 10
    seen: float = 10
    reports: bool = True
    heard: bool = True
    policy: Policy = LIVE
    more: dict[AttemptRef, Facts] = field(default_factory=dict)


def shared(
    state: AttemptState | None,
    ring: str = "canary",
    *,
    active: bool = True,
    succeeded: bool = False,
    outcome: str = "",
    code: str = "",
    restored: bool = False,
) -> Share:
    return Share(True, ring, state, active, succeeded, outcome, code, restored)


GOOD = shared(S.UPDATED, succeeded=True, outcome="canary")
LONG = 8 * DAY
CASES = {
    "pending": Case(shared(None)),
    "pending in no ring": Case(shared(None, ""), ring=None),
    "pending, not seen for long": Case(shared(None, active=False), now=LONG),
    "seen just within": Case(shared(None), now=7 * DAY + 10),
    "seen just without": Case(shared(None, active=False), now=7 * DAY + 10.01),
    "nothing released": Case(
        shared(None), policy=LIVE.model_copy(update={"target": None}), facts=OFFERED
    ),
    "offered": Case(shared(S.OFFERED), OFFERED),
    "downloading": Case(shared(S.DOWNLOADING), BEGUN),
    "downloaded": Case(shared(S.DOWNLOADED), DOWNLOADED),
    "installing": Case(shared(S.INSTALLING), INSTALLING),
    "updated": Case(GOOD, UPDATED, ON_TARGET),
    "failed": Case(shared(S.FAILED, outcome="canary", code="E_FLASH"), FAILED),
    "failed without a code": Case(
        shared(S.FAILED, outcome="canary", code=OTHER),
        replace(FAILED, failure=ReportedFailure(at(5), "")),
    ),
    "reverted": Case(
        shared(S.FAILED, outcome="canary", code="RevertedAfterInstall"),
        replace(UPDATED, other_first=at(0), other_last=at(6)),
    ),
    "timed out": Case(shared(S.TIMED_OUT, outcome="canary"), BEGUN, now=DAY + 1),
    "withdrawn": Case(shared(S.WITHDRAWN), replace(OFFERED, offer_ended=at(1))),
    "never requested": Case(
        shared(S.NOT_REQUESTED, active=False),
        replace(OFFERED, last_poll=at(10)),
        SILENT,
        reports=False,
    ),
    # without an offer
    "updated without an offer": Case(
        shared(S.UPDATED, succeeded=True), Facts(target_first=at(4), target_last=at(4)), ON_TARGET
    ),
    "on the target before the run": Case(shared(S.UPDATED, succeeded=True), device=ON_TARGET),
    "known by its digest": Case(
        shared(S.UPDATED, succeeded=True), device=replace(SILENT, digest=TARGET.digest)
    ),
    "on the target, not seen for long": Case(
        shared(S.UPDATED, active=False), device=ON_TARGET, now=LONG
    ),
    "an old version alone": Case(shared(None), Facts(other_first=at(1), other_last=at(9))),
    "bytes of which the offer is not known": Case(
        shared(S.TIMED_OUT, "fleet", outcome="fleet"),
        Facts(first_byte=at(1), last_request=at(1)),
        ring=FLEET,
        now=DAY + 1,
    ),
    # rings that changed since
    "under way, and in another ring now": Case(shared(S.DOWNLOADING), BEGUN, ring=FLEET),
    "updated, and in another ring now": Case(GOOD, UPDATED, ON_TARGET, ring=FLEET),
    "failed, and in no ring now": Case(
        shared(S.FAILED, outcome="canary", code="E_FLASH"), FAILED, ring=None
    ),
    "withdrawn as it moved": Case(
        shared(S.WITHDRAWN, "fleet"), replace(OFFERED, offer_ended=at(1)), ring=FLEET
    ),
    "the ring of its offer is gone": Case(
        shared(S.FAILED, "fleet", outcome="fleet", code="E_FLASH"),
        replace(FAILED, first_offer=FirstOffer(at(0), "lab")),
        ring=FLEET,
    ),
    "no ring at all is left for it": Case(
        shared(S.FAILED, "", code="E_FLASH"),
        replace(FAILED, first_offer=FirstOffer(at(0), "lab")),
        ring=None,
    ),
    # not seen for long
    "under way, not seen since": Case(
        shared(S.DOWNLOADING),
        BEGUN,
        now=LONG,
        policy=LIVE.model_copy(update={"device_timeout": 10 * DAY * 60}),
    ),
    "failed, not seen since": Case(
        shared(S.FAILED, outcome="canary", code="E_FLASH"), FAILED, now=LONG
    ),
    "updated, not seen since": Case(GOOD, UPDATED, ON_TARGET, now=LONG),
    "withdrawn, not seen since": Case(
        shared(S.WITHDRAWN, active=False), replace(OFFERED, offer_ended=at(1)), now=LONG
    ),
    "offered and gone": Case(shared(S.WITHDRAWN, active=False), OFFERED, now=LONG),
    # restored from a copy
    "updated, not heard of since the copy": Case(
        shared(S.UPDATED, outcome="canary"), UPDATED, ON_TARGET, heard=False
    ),
    "failed, not heard of since the copy": Case(
        shared(S.FAILED, outcome="canary", code="E_FLASH"), FAILED, heard=False
    ),
    # other runs
    "updated in an earlier run, not on it now": Case(
        shared(None), more={AttemptRef(1, TARGET.digest): UPDATED}
    ),
    "failed in an earlier run": Case(shared(None), more={AttemptRef(1, TARGET.digest): FAILED}),
    "updated to another release": Case(shared(None), more={AttemptRef(2, STABLE.digest): UPDATED}),
    # the way back
    "untouched": Case(None, policy=BACK),
    "untouched, offered and withdrawn": Case(None, policy=BACK, more={HERE: OFFERED}),
    "touched": Case(shared(None), policy=BACK, more={HERE: BEGUN}),
    "touched, known by its version": Case(shared(None), device=ON_TARGET, policy=BACK),
    "on its way back": Case(
        shared(S.DOWNLOADING), policy=BACK, more={HERE: UPDATED, WAY_BACK: BEGUN}
    ),
    "back, as it says": Case(
        shared(S.UPDATED, succeeded=True, restored=True),
        policy=BACK,
        more={HERE: UPDATED, WAY_BACK: UPDATED},
    ),
    "said to be on stable before the way back": Case(
        shared(None), policy=BACK, more={HERE: UPDATED}
    ),
    "back, and had the release from elsewhere": Case(
        shared(S.UPDATED, succeeded=True, restored=True),
        policy=BACK,
        more={HERE: Facts(target_first=at(1), target_last=at(1)), WAY_BACK: UPDATED},
    ),
    "has the bytes of stable": Case(
        shared(S.DOWNLOADED, restored=True),
        device=ON_TARGET,
        policy=BACK,
        more={HERE: UPDATED, WAY_BACK: DOWNLOADED},
    ),
    "has the bytes, and was not heard of in time": Case(
        shared(S.TIMED_OUT, restored=True),
        device=ON_TARGET,
        policy=BACK,
        more={HERE: UPDATED, WAY_BACK: DOWNLOADED},
        now=2 * DAY,
    ),
    "failed on the way back": Case(
        shared(S.FAILED, code="E_FLASH"),
        device=ON_TARGET,
        policy=BACK,
        more={HERE: UPDATED, WAY_BACK: FAILED},
    ),
}


def share(case: Case) -> Share | None:
    known = case.more if case.facts is None else {**case.more, HERE: case.facts}
    judged_by = terms(case.policy, Spans(), reports=case.reports)
    assessed = assess(case.policy, known, judged_by, at(case.now))
    return member_share(
        case.policy,
        case.ring,
        case.device,
        assessed,
        seen=at(case.seen),
        heard=case.heard,
        now=at(case.now),
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_a_device_adds(case: Case) -> None:
    assert share(case) == case.want


LEFT = {
    "nothing": (Facts(), None),
    "offered": (OFFERED, None),
    "under way": (INSTALLING, None),
    "updated": (UPDATED, Share(False, "", S.UPDATED, outcome_ring="canary")),
    "failed": (FAILED, Share(False, "", S.FAILED, outcome_ring="canary")),
    "updated without an offer": (Facts(target_first=at(4), target_last=at(4)), None),
    "its ring is gone": (replace(FAILED, first_offer=FirstOffer(at(0), "lab")), None),
}


@pytest.mark.parametrize(("facts", "want"), LEFT.values(), ids=LEFT)
def test_what_a_device_leaves_that_the_rollout_has_no_more(
    facts: Facts, want: Share | None
) -> None:
    judged_by = terms(LIVE, Spans(), reports=True)
    assert outcome_share(LIVE, assess(LIVE, {HERE: facts}, judged_by, at(10))) == want
    back = assess(BACK, {HERE: facts, WAY_BACK: facts}, judged_by, at(10))
    assert outcome_share(BACK, back) is None


def test_outcomes_of_devices_that_left_are_counted_and_no_members() -> None:
    tally = Tally()
    for state in (S.UPDATED, S.FAILED, S.TIMED_OUT):
        tally.add(Share(False, "", state, outcome_ring="canary"))
    assert tally.ring("canary") == RingCounts(name="canary", updated_outcomes=1, failed_outcomes=2)


# sums

STATES = (None, *AttemptState)
rings = st.sampled_from(("canary", "fleet", ""))


@st.composite
def shares(draw: st.DrawFn) -> Share:
    state = draw(st.sampled_from(STATES))
    member = draw(st.booleans())
    concluded = state in (S.UPDATED, S.FAILED, S.TIMED_OUT)
    return Share(
        member=member,
        ring=draw(rings) if member else "",
        state=state,
        active=member and draw(st.booleans()),
        outcome_ring=draw(rings) if concluded else "",
        code=draw(st.sampled_from([f"E{n}" for n in range(30)])) if state is S.FAILED else "",
        restored=member and draw(st.booleans()),
    )


def counted(found: list[Share]) -> Tally:
    tally = Tally()
    for one in found:
        tally.add(one)
    return tally


def states(counts: RingCounts) -> int:
    return (
        counts.pending
        + counts.in_flight
        + counts.updated
        + counts.failed
        + counts.timed_out
        + counts.withdrawn
        + counts.not_requested
    )


@given(st.lists(shares(), max_size=60), st.randoms(use_true_random=False))
def test_counts_add_up_in_any_order(found: list[Share], random: Random) -> None:
    counts = counted(found).counts(LIVE, START)
    for ring in (*counts.rings, counts.unplaced, counts.total):
        assert states(ring) == ring.members
        assert ring.began == ring.members - ring.pending
        assert len(ring.codes) <= CODES + 1
        assert sum(ring.codes.values()) == sum(
            one.member and one.state is S.FAILED and (one.ring == ring.name or ring == counts.total)
            for one in found
        )
    assert counts.total.members == sum(one.member for one in found)
    random.shuffle(found)
    assert counted(found).counts(LIVE, START) == counts


@given(st.lists(shares(), max_size=30), st.lists(shares(), max_size=30))
def test_what_is_added_and_removed_leaves_nothing(kept: list[Share], gone: list[Share]) -> None:
    tally = counted([*kept, *gone])
    for one in gone:
        tally.remove(one)
    assert tally.counts(LIVE, START) == counted(kept).counts(LIVE, START)


def test_codes_are_bounded_and_the_most_frequent_are_shown() -> None:
    tally = Tally()
    for number in range(CODES + 4):
        for _ in range(1 if number < 8 else 2):
            tally.add(shared(S.FAILED, code=f"E{number:02}"))
    tally.add(shared(S.FAILED, code=OTHER))
    codes = tally.ring("canary").codes
    frequent = {f"E{number:02}": 2 for number in range(8, CODES + 4)}
    assert codes == frequent | {"E00": 1, "E01": 1, "E02": 1, "E03": 1, OTHER: 5}
    assert sum(codes.values()) == tally.ring("canary").failed


def test_however_many_codes_devices_make_up_a_sum_keeps_few() -> None:
    tally, many = Tally(), 3 * KEPT_CODES
    for number in range(many):
        tally.add(shared(S.FAILED, code=f"E{number}"))
    assert len(tally._codes["canary"]) <= KEPT_CODES + 1
    assert sum(tally.ring("canary").codes.values()) == many
    for number in reversed(range(KEPT_CODES)):
        tally.remove(shared(S.FAILED, code=f"E{number}"))
        tally.add(shared(S.FAILED, code="boot"))
        tally.remove(shared(S.FAILED, code="boot"))
    for number in range(KEPT_CODES, many):
        tally.remove(shared(S.FAILED, code=f"E{number}"))
    assert tally.ring("canary").codes == {}


def test_counts_say_of_what_they_are() -> None:
    counts = counted([GOOD]).counts(LIVE, at(3), shadowed=4)
    assert (counts.revision, counts.release, counts.run) == ("sha256:1", TARGET.digest, 2)
    assert (counts.at, counts.shadowed) == (at(3), 4)
    assert [ring.name for ring in counts.rings] == ["canary", "fleet"]
    assert counts.ring("unknown") == RingCounts(name="unknown")
    assert RolloutCounts.model_validate_json(counts.model_dump_json()) == counts
