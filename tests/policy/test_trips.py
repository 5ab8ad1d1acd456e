"""When the breaker of a run opens, by its counts."""

import pytest

from otaflux_policy.contract import (
    Policy,
    State,
)
from otaflux_policy.counts import (
    RolloutCounts,
    Share,
    Tally,
    Trip,
    trip,
)
from tests.policy.situations import BOTH_OPEN, CANARY, LIVE, RULE, STABLE, TARGET, S, at, changed

# the breaker


def outcomes(policy: Policy = LIVE, **rings: tuple[int, int]) -> RolloutCounts:
    """Counts with (failed, updated) outcomes by ring."""
    tally = Tally()
    for name, (failed, updated) in rings.items():
        for state, count in ((S.FAILED, failed), (S.UPDATED, updated)):
            for _ in range(count):
                tally.add(Share(False, "", state, outcome_ring=name))
    return tally.counts(policy, at(1))


@pytest.mark.parametrize(
    ("failed", "updated", "trips"),
    [
        (0, 0, False),
        (2, 0, False),
        (3, 0, True),
        (1, 2, True),
        (1, 4, False),
        (20, 80, False),
        (21, 80, True),
        (201, 800, True),
        (200, 800, False),
    ],
)
def test_more_than_the_percentage_of_enough_outcomes(
    failed: int, updated: int, trips: bool
) -> None:
    found = trip(LIVE, outcomes(canary=(failed, updated)), at(2))
    want = Trip(run=2, ring="canary", failed=failed, updated=updated, at=at(2))
    assert found == (want if trips else None)


def test_only_open_rings_and_each_by_itself() -> None:
    assert trip(LIVE, outcomes(fleet=(9, 0)), at(2)) is None
    found = trip(BOTH_OPEN, outcomes(BOTH_OPEN, canary=(1, 99), fleet=(3, 0)), at(2))
    assert found is not None
    assert (found.ring, found.percent) == ("fleet", 100)
    assert trip(BOTH_OPEN, outcomes(BOTH_OPEN, canary=(2, 0), fleet=(2, 0)), at(2)) is None


def test_a_ring_without_a_rule_never_fails() -> None:
    policy = changed(rings=(CANARY.model_copy(update={"failure": None}),))
    assert trip(policy, outcomes(policy, canary=(9, 0)), at(2)) is None


@pytest.mark.parametrize(
    ("policy", "trips"),
    [
        (LIVE, True),
        (changed(state=State.PAUSED), True),
        (changed(tripped=True), True),
        (changed(state=State.ABORTED), False),
        (changed(stable=TARGET), False),
        (changed(rolling_back=True), False),
        (changed(target=None), False),
    ],
    ids=["live", "paused", "tripped", "aborted", "completed", "rolling back", "nothing released"],
)
def test_only_while_the_run_goes_on(policy: Policy, trips: bool) -> None:
    found = trip(policy, outcomes(policy, canary=(9, 0)), at(2))
    assert (found is not None) is trips


def test_counts_of_another_run_or_release_are_no_ground() -> None:
    for other in (changed(run=1), changed(target=STABLE)):
        assert trip(LIVE, outcomes(other, canary=(9, 0)), at(2)) is None


@pytest.mark.parametrize(("limit", "trips"), [(0, True), (99, True), (100, False)])
def test_the_ends_of_the_percentage(limit: int, trips: bool) -> None:
    rule = RULE.model_copy(update={"max_percent": limit, "min_sample": 1})
    policy = changed(rings=(CANARY.model_copy(update={"failure": rule}),))
    assert (trip(policy, outcomes(policy, canary=(1, 0)), at(2)) is not None) is trips
    assert trip(policy, outcomes(policy, canary=(0, 1)), at(2)) is None
