"""The arithmetic of figures, and the fleet that they are measured with."""

from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.figures import percentile, ratio
from benchmarks.fleets import STABLE, TARGET, Change, Fleet, changed
from otaflux_policy.groups import Groups


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_percentiles_are_values_that_were_measured(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_ratios_compare_runs_that_were_next_to_each_other() -> None:
    assert ratio([1, 8, 3], [2, 10, 3]) == 0.8


def test_every_device_belongs_to_one_rollout() -> None:
    fleet = Fleet(devices=300, rollouts=3)
    groups = Groups(fleet.groups())
    for number, device in enumerate(fleet.device_ids):
        assert groups.labels(device)["product"] == f"p{number % 3:02}"
    assert len(set(fleet.device_ids)) == 300


def test_each_rollout_has_a_canary_and_images_of_its_own() -> None:
    fleet = Fleet(devices=300, rollouts=3, size=100)
    groups = Groups(fleet.groups())
    ids = fleet.device_ids
    assert groups.labels(ids[0])["ring"] == "canary"
    assert "ring" not in groups.labels(ids[3])
    assert fleet.digest(0) == sha256(fleet.image(0, TARGET)).hexdigest()
    assert fleet.image(0, TARGET) != fleet.image(0, STABLE) != fleet.image(1, STABLE)


def test_a_fleet_that_is_too_large_for_one_group_has_several() -> None:
    groups = list(Fleet(devices=25_000, rollouts=1).groups())
    products = [group for group in groups if group.name.startswith("product-")]
    assert [len(group.names) for group in products] == [10_000, 10_000, 5_000]


def test_changes_come_and_go(tmp_path: Path) -> None:
    (policy,) = Fleet(devices=10, rollouts=1, size=100).policies(tmp_path / "layout")

    def rings(change: Change, changes: int) -> list[tuple[int | None, bool]]:
        return [(ring.percent, ring.open) for ring in changed(policy, change, changes).rings]

    assert rings(Change.WIDEN, 1)[1] == (30, True)
    assert rings(Change.WIDEN, 2)[1] == (10, True)
    assert not any(opened for _, opened in rings(Change.OPEN, 0))
    assert all(opened for _, opened in rings(Change.OPEN, 1))
    assert changed(policy, Change.OPEN, 2).run == policy.run + 1
    assert changed(policy, Change.WIDEN, 0).revision != changed(policy, Change.WIDEN, 2).revision
