"""Worlds in which a release is under way, fails, and is taken back."""

from typing import Any

from otaflux_policy.contract import Release
from tests.operator.worlds import World

ROLLBACK: dict[str, Any] = {"action": "Rollback", "maxPercent": 20, "minSample": 3}
RINGS: list[dict[str, Any]] = [
    {"name": "canary", "percent": 10, "failure": ROLLBACK},
    {"name": "fleet", "failure": ROLLBACK},
]
FAILING = {"canary": {"members": 10, "active": 10, "updated_outcomes": 4, "failed_outcomes": 6}}


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def offered(world: World) -> tuple[str | None, str | None]:
    """The release taken back, and the one that devices get instead."""
    return version(world.policy.target), version(world.policy.stable)


def since_stable(world: World) -> list[tuple[str, int]]:
    return [(known.version, known.run) for known in world.policy.rollback_from]


def under_way(*completed: str, rings: list[dict[str, Any]] = RINGS, **spec: Any) -> World:
    """Versions that completed, and 2.0.0 after them in its first ring."""
    world = World(**spec)
    for known in completed:
        world.release(known)
    world.spec(rings=rings)
    world.release("2.0.0")
    assert (version(world.policy.target), world.open_rings()) == ("2.0.0", ["canary"])
    return world


def failed(*completed: str, **spec: Any) -> World:
    """As `under_way`, and the first ring failed."""
    world = under_way(*completed, **spec)
    world.counts = FAILING
    world.serve()
    world.look()
    return world


def counts_back(world: World, devices: int, restored: int) -> None:
    world.counts = {"canary": {"members": devices, "restored": restored}}


def taken_back_by_failure() -> World:
    world = failed("1.0.0")
    counts_back(world, 4, 4)
    world.settle()
    assert world.status.phase == "RolledBack"
    return world
