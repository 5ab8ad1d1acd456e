"""The arithmetic of figures, and the fleet that they are measured with."""

from hashlib import sha256

import pytest

from benchmarks.figures import percentile, ratio
from benchmarks.fleets import STABLE, TARGET, Fleet
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
