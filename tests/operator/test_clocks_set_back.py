"""A clock that is set back holds no rollback up, and tells nobody of the same thing twice."""

from datetime import timedelta
from typing import Any

from otaflux_operator.resources import RolloutStatus
from otaflux_operator.telling import happenings
from otaflux_policy.counts import Trip
from tests.operator.test_telling import KEY
from tests.operator.worlds import AT_ONCE, World

RINGS: list[dict[str, Any]] = [{"name": "fleet", "failure": {"action": "Rollback", "minSample": 1}}]
FAILED = {"fleet": {"members": 1, "active": 1, "failed": 1, "failed_outcomes": 1}}


def under_way(**spec: Any) -> World:
    world = World(**spec)
    world.release("1.0.0")
    world.spec(rings=RINGS)
    world.release("1.1.0")
    return world


def told(world: World, before: RolloutStatus) -> list[str]:
    notices = happenings(KEY, "uid-1", before, world.status, world.now)
    return [str(notice.reason) for notice in notices]


def test_a_failure_is_answered_by_a_rollback_though_it_lies_in_the_future() -> None:
    world = under_way()
    world.counts = FAILED
    world.serve()
    world.look()
    assert world.status.trip is not None
    world.now -= timedelta(hours=2)
    outcome = world.look()
    assert outcome.wake_at is not None
    assert outcome.wake_at - world.now <= timedelta(seconds=1)
    world.settle()
    assert world.policy.rolling_back


def test_a_failure_that_servers_tell_of_by_a_clock_ahead_is_answered_too() -> None:
    world = under_way()
    world.trip = Trip(run=2, ring="fleet", failed=1, updated=0, at=world.now + timedelta(hours=2))
    world.counts = None
    world.settle()
    assert world.policy.rolling_back


def test_a_rollback_that_began_in_the_future_ends_device_timeout_after_now() -> None:
    world = under_way(deviceTimeout="1h")
    world.counts = {"fleet": {"members": 5, "restored": 3}}
    world.release("1.0.0")
    assert world.status.phase == "RollingBack"
    before = world.status
    world.now -= timedelta(days=30)
    world.settle()
    assert world.status.phase == "RollingBack"
    assert told(world, before) == []
    world.passes(3601)
    world.settle()
    assert world.status.phase == "RolledBack"


def test_an_open_ring_is_not_told_of_again() -> None:
    world = under_way()
    world.spec(rings=[{"name": "fleet", "soak": "1h"}])
    world.counts = {"fleet": {"members": 2, "active": 2}}
    world.settle()
    before = world.status
    world.now -= timedelta(hours=2)
    world.settle()
    assert world.status.rings[0].opened_at != before.rings[0].opened_at
    assert told(world, before) == []


def test_a_completed_ring_is_told_of_once() -> None:
    world = World(rings=[{"name": "fleet", **AT_ONCE}])
    world.release("1.0.0")
    before = world.status
    world.now -= timedelta(hours=2)
    world.settle()
    assert told(world, before) == []
