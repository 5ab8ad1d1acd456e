"""Deadlines of rings: they stall, never advance, and stand still while paused or out of windows."""

from datetime import timedelta
from typing import Any

from otaflux_operator.engine import Answer, Waiting
from tests.operator.worlds import AT_ONCE, World

NONE = {"members": 4, "active": 4, "pending": 4}
GOOD = {"members": 4, "active": 4, "succeeded": 4, "updated": 4}
HOUR = timedelta(hours=1)


def limited(*, deadline: str = "2h", **spec: Any) -> World:
    """The first of two rings is open, by its deadline, and nobody has updated."""
    canary = {"name": "canary", "percent": 10, "deadline": deadline}
    world = World(rings=[canary, {"name": "fleet", **AT_ONCE}], **spec)
    world.counts = {"canary": NONE}
    world.release("1.0.0")
    assert world.rings()["canary"] == "Open"
    return world


def at(world: World, since_opening: timedelta) -> None:
    """Looks when so much time has passed since the ring opened."""
    opened = world.status.rings[0].opened_at
    assert opened is not None
    world.now = opened + since_opening
    world.serve()
    world.look()


def test_past_its_deadline_a_ring_stalls_and_never_advances() -> None:
    world = limited()
    at(world, 2 * HOUR - timedelta(seconds=1))
    assert world.reason("Stalled") == "False/NotStalled"
    assert "00:01 left until its deadline" in world.status.message
    at(world, 2 * HOUR)
    assert world.reason("Stalled") == "True/DeadlineExceeded"
    assert world.reason("Ready") == "False/DeadlineExceeded"
    assert world.status.phase == "Stalled"
    assert "Ring canary is past its deadline of 2h" in world.status.message
    assert "0 of 4 updated" in world.status.message
    assert world.open_rings() == ["canary"]
    assert not world.policy.tripped
    assert world.look().waiting >= {Waiting.PERSON, Waiting.EVIDENCE}
    at(world, 200 * HOUR)
    assert world.open_rings() == ["canary"]


def test_it_wakes_at_the_deadline() -> None:
    world = limited()
    at(world, 2 * HOUR - timedelta(seconds=30))
    assert world.look().wake_at == world.now + timedelta(seconds=30)


def test_the_stall_clears_when_success_holds() -> None:
    world = limited()
    at(world, 3 * HOUR)
    world.counts = {"canary": GOOD}
    world.settle()
    assert world.status.phase == "Completed"
    assert world.reason("Stalled") == "False/NotStalled"


def test_the_stall_clears_while_success_soaks() -> None:
    world = limited()
    rings = world.manifest["spec"]["rings"]
    world.spec(rings=[rings[0] | {"soak": "1h"}, rings[1]])
    at(world, 3 * HOUR)
    assert world.reason("Stalled") == "True/DeadlineExceeded"
    world.counts = {"canary": GOOD}
    world.settle()
    assert world.rings()["canary"] == "Soaking"
    assert world.reason("Stalled") == "False/NotStalled"
    world.counts = {"canary": NONE}
    world.settle()
    assert world.reason("Stalled") == "True/DeadlineExceeded"


def test_the_stall_clears_when_the_deadline_changes() -> None:
    world = limited()
    at(world, 3 * HOUR)
    rings = world.manifest["spec"]["rings"]
    for deadline in ({"deadline": "4h"}, {"deadline": None}):
        at(world, 3 * HOUR)
        world.spec(rings=[{**rings[0], **deadline}, rings[1]])
        world.settle()
        assert world.reason("Stalled") == "False/NotStalled"
        world.spec(rings=rings)


def test_a_deadline_passes_without_servers() -> None:
    world = limited()
    opened = world.status.rings[0].opened_at
    assert opened is not None
    world.now = opened + 2 * HOUR
    world.answer = Answer(problem="no route")
    world.look()
    assert world.reason("Stalled") == "True/DeadlineExceeded"


def test_another_release_is_stored_although_a_deadline_passed() -> None:
    world = limited()
    at(world, 3 * HOUR)
    world.tag("1.1.0")
    world.look()
    assert world.reason("Reconciling") == "True/StoringArtifact"
    world.settle()
    assert world.status.run == 2
    assert world.reason("Stalled") == "False/NotStalled"


def test_it_stands_still_while_paused() -> None:
    world = limited()
    at(world, HOUR)
    world.spec(state="Paused")
    world.look()
    paused = world.now
    assert world.status.paused_at == paused
    at(world, 10 * HOUR)
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.status.paused_at == paused
    world.spec(state="Active")
    world.look()
    assert world.status.paused_at is None
    assert world.status.rings[0].paused_seconds == 9 * 3600
    at(world, 11 * HOUR - timedelta(seconds=1))
    assert world.reason("Stalled") == "False/NotStalled"
    at(world, 11 * HOUR)
    assert world.reason("Stalled") == "True/DeadlineExceeded"


def test_several_pauses_add_up_and_only_for_rings_that_were_open() -> None:
    world = limited()
    for start in (0.5, 3.5):
        at(world, start * HOUR)
        world.spec(state="Paused")
        world.look()
        at(world, (start + 2) * HOUR)
        world.spec(state="Active")
        world.look()
    canary, fleet = world.status.rings
    assert (canary.paused_seconds, fleet.paused_seconds) == (4 * 3600, 0)


def test_what_was_past_its_deadline_stays_so_when_paused() -> None:
    world = limited()
    at(world, 3 * HOUR)
    world.spec(state="Paused")
    world.look()
    assert world.status.phase == "Paused"
    assert world.reason("Stalled") == "True/DeadlineExceeded"


def test_a_pause_counts_within_windows_only() -> None:
    """Nightly from 2 to 6: of a pause from 12 to 12 only those four hours stood still."""
    windows = [{"schedule": "0 2 * * *", "duration": "4h"}]
    world = limited(deadline="8h", windows=windows)
    world.spec(state="Paused")
    world.look()
    world.passes(24 * 3600)
    world.spec(state="Active")
    world.serve()
    world.look()
    assert world.status.rings[0].paused_seconds == 4 * 3600


def test_it_stands_still_outside_of_windows() -> None:
    """Four hours a night: a deadline of six is over at 4 o'clock in the second night."""
    windows = [{"schedule": "0 2 * * *", "duration": "4h"}]
    world = limited(deadline="6h", windows=windows)
    opened = world.status.rings[0].opened_at
    assert opened is not None
    noon = opened.replace(hour=12, minute=0, second=0)
    at(world, noon + 40 * HOUR - timedelta(seconds=1) - opened)
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.look().wake_at == world.now + timedelta(seconds=1)
    at(world, noon + 40 * HOUR - opened)
    assert world.reason("Stalled") == "True/DeadlineExceeded"


def test_a_clock_that_jumps_back_gives_no_negative_times() -> None:
    world = limited()
    world.now -= 50 * HOUR
    world.serve()
    world.look()
    assert world.status.rings[0].opened_at == world.now
    world.spec(state="Paused")
    world.look()
    world.now -= 50 * HOUR
    world.serve()
    world.look()
    assert world.status.paused_at == world.now
    world.spec(state="Active")
    world.look()
    assert world.status.rings[0].paused_seconds == 0
    at(world, 2 * HOUR)
    assert world.reason("Stalled") == "True/DeadlineExceeded"
