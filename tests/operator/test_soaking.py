"""A ring's success condition has to hold for its soak, whatever the clock and the operator do."""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otaflux_operator.engine import Answer, Waiting
from tests.operator.worlds import AT_ONCE, World

GOOD = {"members": 4, "active": 4, "succeeded": 4, "updated": 4}
LESS = {"members": 4, "active": 4, "succeeded": 3, "updated": 3}


def soaking(**ring: Any) -> World:
    """The first of two rings has begun its soak of one hour; some seconds of it are over."""
    rings = [{"name": "canary", "percent": 10, "soak": "1h", **ring}, {"name": "fleet", **AT_ONCE}]
    world = World(rings=rings)
    world.counts = {"canary": GOOD}
    world.release("1.0.0")
    assert world.rings() == {"canary": "Soaking", "fleet": "Pending"}
    return world


def left(world: World) -> float:
    """Seconds until the ring has soaked: an hour, and the second that a status does not tell."""
    satisfied = world.status.rings[0].satisfied_at
    assert satisfied is not None
    return (satisfied + timedelta(hours=1, seconds=1) - world.now).total_seconds()


def test_a_ring_soaks_before_the_next_one_opens() -> None:
    world = soaking()
    assert world.status.phase == "Progressing"
    assert world.reason("Ready") == "True/Soaking"
    world.passes(left(world) - 1)
    world.look()
    assert world.open_rings() == ["canary"]
    world.passes(1)
    world.look()
    assert world.rings()["canary"] == "Complete"
    assert world.open_rings() == ["canary", "fleet"]


def test_it_wakes_when_the_soak_is_over() -> None:
    world = soaking()
    world.passes(left(world) - 20)
    outcome = world.look()
    assert outcome.wake_at == world.now + timedelta(seconds=20)
    assert Waiting.EVIDENCE in outcome.waiting


def test_the_soak_begins_anew_when_the_condition_did_not_hold() -> None:
    world = soaking()
    world.passes(left(world) - 60)
    world.counts = {"canary": LESS}
    world.serve()
    world.look()
    assert world.rings()["canary"] == "Open"
    assert world.status.rings[0].satisfied_at is None
    world.counts = {"canary": GOOD}
    world.serve()
    world.look()
    assert left(world) == 3601
    world.passes(3600)
    world.look()
    assert world.rings()["canary"] == "Soaking"
    world.passes(1)
    world.look()
    assert world.rings()["canary"] == "Complete"


def test_a_soak_that_is_over_while_nothing_is_known_waits_for_counts() -> None:
    world = soaking()
    world.now += timedelta(hours=2)
    world.look()
    assert world.rings()["canary"] == "Soaking"
    world.serve()
    world.look()
    assert world.rings()["canary"] == "Complete"


def test_a_restart_in_mid_soak_changes_nothing() -> None:
    world = soaking()
    world.passes(left(world) - 60)
    world.look()
    before, writes = world.manifest["status"], world.writes
    resolution, answer = world.resolution, world.answer
    world.resolves(None)
    world.answer = Answer()
    world.look()
    assert (world.manifest["status"], world.writes) == (before, writes)
    world.resolution, world.answer = resolution, answer
    world.look()
    assert (world.manifest["status"], world.writes) == (before, writes)


def test_a_clock_that_jumps_back_before_the_soak_begins_it_anew() -> None:
    world = soaking()
    world.passes(left(world) - 60)
    world.now -= timedelta(hours=5)
    world.serve()
    world.look()
    assert left(world) == 3601
    assert "01:00 left" in world.status.message


def test_a_clock_that_jumps_forth_moves_nothing_by_old_counts() -> None:
    world = soaking()
    world.now += timedelta(days=1)
    world.answer = Answer(world.answer.said, world.now)
    world.look()
    assert world.rings()["canary"] == "Soaking"
    assert world.reason("Ready") == "True/Inconclusive"


def test_it_soaks_on_while_paused_but_completes_only_when_active() -> None:
    world = soaking()
    world.spec(state="Paused")
    world.settle()
    world.passes(7200)
    world.settle()
    assert world.rings() == {"canary": "Soaking", "fleet": "Pending"}
    assert "complete once spec.state is Active" in world.status.message
    world.spec(state="Active")
    world.settle()
    assert world.rings() == {"canary": "Complete", "fleet": "Complete"}


def test_a_longer_soak_counts_from_when_the_condition_held() -> None:
    world = soaking()
    rings = world.manifest["spec"]["rings"]
    world.passes(left(world) - 1)
    world.spec(rings=[rings[0] | {"soak": "2h"}, rings[1]])
    world.settle()
    assert world.rings()["canary"] == "Soaking"
    world.passes(3600)
    world.settle()
    assert world.rings()["canary"] == "Complete"


def test_only_time_is_asked_for() -> None:
    """No share, no number, but a soak: it begins once counts tell of the ring."""
    world = soaking(success={"minUpdatedPercent": 0, "minDevices": 0})
    world.passes(3600)
    world.look()
    assert world.rings()["canary"] == "Complete"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2000),  # seconds that really pass
            st.integers(-4000, 0),  # how far the clock jumps back
            st.sampled_from([GOOD, GOOD, GOOD, LESS]),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_ring_completes_before_its_soak_is_really_over(
    steps: list[tuple[int, int, dict[str, int]]],
) -> None:
    """However often the clock goes back: real time since the condition held, without a gap."""
    world = soaking()
    satisfied = world.status.rings[0].satisfied_at
    assert satisfied is not None
    held = (world.now - satisfied).total_seconds()
    for passed, jump, counts in steps:
        world.now += timedelta(seconds=passed + jump)
        world.counts = {"canary": counts}
        world.serve()
        world.look()
        held = held + passed if counts is GOOD else 0
        if world.rings()["canary"] == "Complete":
            assert held >= 3600
            return
        if counts is LESS:
            assert world.status.rings[0].satisfied_at is None
        else:
            assert left(world) <= 3601
