"""When a ring has succeeded: shares, least numbers, empty rings, counts that do not conclude."""

from datetime import timedelta
from typing import Any

import pytest

from otaflux_operator.engine import Waiting
from tests.operator.worlds import AT_ONCE, World


def judged(counts: dict[str, int], **ring: Any) -> World:
    """Two rings, of which the first has these counts and the second asks for nothing."""
    rings = [{"name": "canary", "percent": 10, **ring}, {"name": "fleet", **AT_ONCE}]
    world = World(rings=rings)
    world.counts = {"canary": counts | {"updated": counts.get("succeeded", 0)}}
    world.release("1.0.0")
    return world


@pytest.mark.parametrize(
    ("percent", "least", "active", "succeeded", "complete"),
    [
        (90, 1, 10, 9, True),
        (90, 1, 10, 8, False),
        (90, 1, 11, 9, False),  # 81 %
        (90, 1, 11, 10, True),
        (100, 1, 3, 3, True),
        (100, 1, 3, 2, False),
        (1, 1, 200, 1, False),  # 0.5 %
        (1, 1, 200, 2, True),
        (50, 3, 4, 2, False),
        (50, 3, 4, 3, True),
        (0, 2, 10, 1, False),
        (0, 2, 10, 2, True),
        (50, 0, 3, 2, True),
        (50, 0, 3, 1, False),
    ],
)
def test_a_ring_succeeds_by_its_share_and_its_number(
    percent: int, least: int, active: int, succeeded: int, complete: bool
) -> None:
    world = judged(
        {"members": active, "active": active, "succeeded": succeeded},
        success={"minUpdatedPercent": percent, "minDevices": least},
    )
    assert world.rings()["canary"] == ("Complete" if complete else "Open")
    assert world.open_rings() == (["canary", "fleet"] if complete else ["canary"])
    assert world.status.phase == ("Completed" if complete else "Progressing")


def test_devices_that_are_not_active_do_not_count() -> None:
    world = judged({"members": 100, "active": 10, "succeeded": 9})
    assert world.rings()["canary"] == "Complete"


def test_a_device_that_never_asks_is_in_neither_part_of_the_share() -> None:
    """NotRequested is not `active`; the 9 of 10 others are 90 %."""
    world = judged({"members": 15, "active": 10, "succeeded": 9, "not_requested": 5})
    assert world.rings()["canary"] == "Complete"


def test_where_none_is_active_no_share_can_be_told() -> None:
    counts = {"members": 5, "active": 0}
    world = judged(counts, success={"minUpdatedPercent": 50, "minDevices": 0})
    assert world.rings()["canary"] == "Open"
    assert "5 more not seen for 168h" in world.status.message


def test_what_updated_without_an_offer_counts() -> None:
    """Those already on the target: updated, although nobody was offered anything."""
    world = judged({"members": 3, "active": 3, "succeeded": 3})
    assert world.rings()["canary"] == "Complete"


def test_an_empty_ring_waits_and_says_so() -> None:
    world = judged({})
    assert world.rings()["canary"] == "Open"
    assert world.reason("Ready") == "True/NoDevices"
    assert "ring canary (1/2): it has no devices" in world.status.message
    assert Waiting.EVIDENCE in world.look().waiting


def test_an_empty_ring_may_be_skipped() -> None:
    world = judged({}, onEmpty="Skip")
    assert world.rings() == {"canary": "Skipped", "fleet": "Complete"}
    assert world.status.phase == "Completed"


def test_a_ring_with_a_device_is_not_skipped() -> None:
    world = judged({"members": 1, "active": 0}, onEmpty="Skip")
    assert world.rings()["canary"] == "Open"


def test_a_skipped_ring_stays_so_when_a_device_turns_up() -> None:
    rings = [
        {"name": "canary", "percent": 10, "onEmpty": "Skip"},
        {"name": "fleet"},
    ]
    world = World(rings=rings)
    world.release("1.0.0")
    assert world.rings() == {"canary": "Skipped", "fleet": "Open"}
    world.counts = {"canary": {"members": 1, "active": 1}}
    world.settle()
    assert world.rings()["canary"] == "Skipped"
    assert world.open_rings() == ["canary", "fleet"]


def test_fewer_devices_than_the_least_number_wait_and_say_so() -> None:
    counts = {"members": 2, "active": 2, "succeeded": 2}
    world = judged(counts, success={"minUpdatedPercent": 100, "minDevices": 3})
    assert world.rings()["canary"] == "Open"
    assert world.reason("Ready") == "True/TooFewDevices"
    assert "2 of 2 updated, it has 2 devices, and waits for 3" in world.status.message


def test_a_ring_that_completed_stays_complete() -> None:
    world = judged({"members": 4, "active": 4, "succeeded": 4}, success={"minDevices": 4})
    world.spec(rings=[world.manifest["spec"]["rings"][0], {"name": "fleet"}])
    world.tag("1.1.0")
    world.settle()
    assert world.rings()["canary"] == "Complete"
    completed = world.status.rings[0].completed_at
    world.counts = {"canary": {"members": 9, "active": 9, "succeeded": 4, "pending": 5}}
    world.passes(60)
    world.settle()
    assert (world.rings()["canary"], world.status.rings[0].completed_at) == ("Complete", completed)


def test_a_ring_that_asks_for_nothing_needs_no_devices() -> None:
    world = judged({}, **AT_ONCE)
    assert world.rings()["canary"] == "Complete"


COMPLETE = {"members": 4, "active": 4, "succeeded": 4, "updated": 4}


def served() -> World:
    """Counts that complete the ring were told, and not looked at yet."""
    world = judged({"members": 4, "active": 4})
    world.counts = {"canary": COMPLETE}
    world.serve()
    return world


def alter(world: World, **counts: Any) -> None:
    said = world.answer.said
    assert said is not None
    assert said.counts is not None
    altered = said.model_copy(update={"counts": said.counts.model_copy(update=counts)})
    world.answer = type(world.answer)(altered, world.answer.at)


def test_counts_that_conclude_complete() -> None:
    world = served()
    world.look()
    assert world.rings()["canary"] == "Complete"


@pytest.mark.parametrize(
    ("age", "conclusive"), [(0, True), (60, True), (61, False), (-9, True), (-11, False)]
)
def test_counts_conclude_while_they_are_recent(age: int, conclusive: bool) -> None:
    world = served()
    alter(world, at=world.now - timedelta(seconds=age))
    world.look()
    assert world.rings()["canary"] == ("Complete" if conclusive else "Open")
    if not conclusive:
        assert world.reason("Ready") == "True/Inconclusive"
        assert "61 s old" in world.status.message or "11 s ahead" in world.status.message


@pytest.mark.parametrize(
    "other", [{"revision": "sha256:other"}, {"run": 7}, {"release": f"sha256:{'0' * 64}"}]
)
def test_counts_of_something_else_do_not_conclude(other: dict[str, object]) -> None:
    world = served()
    alter(world, **other)
    world.look()
    assert world.rings()["canary"] == "Open"
    assert world.reason("Ready") == "True/Inconclusive"
    assert "another policy or run" in world.status.message


def test_counts_of_a_server_that_serves_something_else_do_not_conclude() -> None:
    world = served()
    said = world.answer.said
    assert said is not None
    other = said.model_copy(update={"revision": "sha256:other"})
    world.answer = type(world.answer)(other, world.now)
    world.look()
    assert world.rings()["canary"] == "Open"


def test_an_answer_that_is_too_old_does_not_conclude() -> None:
    world = served()
    world.now += timedelta(seconds=61)
    alter(world, at=world.now)
    world.look()
    assert world.rings()["canary"] == "Open"


def test_counts_by_a_policy_that_is_not_served_do_not_conclude() -> None:
    """The servers are one policy behind: neither theirs nor ours is judged by."""
    world = served()
    answer = world.answer
    world.spec(priority=3)
    world.look()
    world.answer = answer
    world.look()
    assert world.rings()["canary"] == "Open"


def test_a_ring_that_servers_have_not_opened_yet_is_not_judged() -> None:
    """Devices that run the target already must not carry rings past an unpublished opening."""
    full = {"members": 4, "active": 4, "succeeded": 4, "updated": 4}
    rings = [{"name": "canary", "percent": 10}, {"name": "early", "percent": 50}, {"name": "fleet"}]
    world = World(rings=rings)
    world.counts = {"canary": full, "early": full, "fleet": full}
    world.tag("1.0.0")
    for _ in range(2):
        world.look()
        world.serve()
    outcome = world.look()
    assert world.rings() == {"canary": "Complete", "early": "Open", "fleet": "Pending"}
    assert outcome.policy is not None
    assert world.look().policy is None


def test_the_status_has_the_numbers_and_keeps_them_while_none_are_told() -> None:
    counts = {
        "members": 60,
        "active": 50,
        "pending": 12,
        "offered": 6,
        "downloading": 4,
        "updated": 31,
        "succeeded": 31,
        "failed": 2,
        "timed_out": 3,
        "not_requested": 2,
    }
    world = judged(counts)
    ring = world.status.rings[0]
    assert (ring.devices, ring.offered, ring.updated, ring.failed) == (60, 48, 31, 5)
    assert world.status.updated_summary == "31/60"
    world.counts = None
    world.serve()
    world.look()
    ring = world.status.rings[0]
    assert (ring.devices, ring.offered, ring.updated, ring.failed) == (60, 48, 31, 5)
    assert world.status.updated_summary == "31/60"


def test_a_new_run_begins_with_no_numbers() -> None:
    world = judged({"members": 4, "active": 4, "succeeded": 2})
    world.tag("1.1.0")
    for _ in range(3):
        world.look()
        world.counts = None
        world.serve()
    assert world.status.run == 2
    assert world.status.rings[0].devices is None
    assert world.status.updated_summary == ""


def test_health_is_told_from_the_counts() -> None:
    counts = {"members": 5, "active": 5, "succeeded": 2, "failed": 1, "updated_outcomes": 2}
    world = judged(counts | {"failed_outcomes": 1}, failure={"maxPercent": 50})
    assert world.reason("Healthy") == "True/Healthy"
    assert world.condition("Healthy").message == "2 devices run it, 1 failed."
    world.counts = None
    world.serve()
    world.look()
    assert world.reason("Healthy") == "Unknown/Inconclusive"
