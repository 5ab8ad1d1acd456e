"""What `kubectl get fwr` tells a person: version, phase, ring, updated, and why it waits."""

from typing import Any

import pytest

from otaflux_operator.resources.definitions import definitions
from tests.operator.worlds import AT_ONCE, World

FIFTY = {"members": 50, "active": 50}


def early(counts: dict[str, int], **ring: Any) -> World:
    """1.1.0 is in the second of three rings, which has these counts."""
    world = World()
    world.release("1.0.0")
    rings = [
        {"name": "canary", "percent": 1, **AT_ONCE},
        {"name": "early", "percent": 10, **ring},
        {"name": "fleet"},
    ]
    world.counts = {"early": counts}
    world.spec(rings=rings)
    world.release("1.1.0")
    return world


@pytest.mark.parametrize(
    ("counts", "ring", "text"),
    [
        (
            FIFTY | {"succeeded": 31, "updated": 31, "failed": 1, "downloading": 4},
            {"success": {"minUpdatedPercent": 60}, "soak": "40m"},
            "ring early (2/3): 31 of 50 updated, 1 failed (2 %), 4 under way, soaking, 00:40 left",
        ),
        (
            FIFTY | {"succeeded": 31, "updated": 31, "installing": 2, "offered": 3},
            {},
            "ring early (2/3): 31 of 50 updated, 5 under way, needs 45 updated",
        ),
        (
            FIFTY | {"succeeded": 2, "updated": 2, "downloading": 3},
            {"maxConcurrent": 3},
            "2 of 50 updated, 3 under way, needs 45 updated, no more than 3 at a time",
        ),
        (
            {"members": 60, "active": 50, "not_requested": 4, "failed": 1, "timed_out": 2},
            {},
            "0 of 50 updated, 3 failed (6 %), 6 more not seen for 168h, 4 more never asked for it",
        ),
        (
            FIFTY,
            {"deadline": "47h"},
            "0 of 50 updated, needs 45 updated, 47:00 left until its deadline",
        ),
        ({}, {}, "ring early (2/3): it has no devices, and waits for one"),
    ],
)
def test_a_message_breaks_down_how_far_a_ring_is(
    counts: dict[str, int], ring: dict[str, Any], text: str
) -> None:
    world = early(counts, **ring)
    assert f"{text}" in world.status.message
    assert world.status.message.startswith("1.1.0: ring early (2/3): ")
    assert world.condition("Ready").message == world.status.message


def test_the_summaries_tell_rings_and_devices() -> None:
    world = early(FIFTY | {"succeeded": 31, "updated": 31})
    assert world.status.ring_summary == "2/3"
    assert world.status.current_ring == "early"
    assert world.status.updated_summary == "31/50"
    world.counts = {"canary": {"members": 5, "updated": 4}, "early": FIFTY | {"updated": 31}}
    world.counts["fleet"] = {"members": 1000, "updated": 7}
    world.settle()
    assert world.status.updated_summary == "35/55"


def test_what_cannot_be_judged_says_what_was_counted_last() -> None:
    world = early(FIFTY | {"succeeded": 31, "updated": 31})
    world.counts = None
    world.settle()
    assert "31 of 50 devices updated when counted last" in world.status.message
    assert "{ring: fleet, release: 1.1.0, effect: Override}" in world.status.message


def test_a_rollback_counts_who_came_back() -> None:
    world = early(FIFTY)
    world.counts = {"early": {"members": 8, "restored": 3}}
    world.release("1.0.0")
    assert "1.1.0 is being taken back: 3 of 8 devices are back on 1.0.0." in world.status.message
    assert world.status.updated_summary == "3/8"


def test_the_columns_tell_what_a_person_looks_for() -> None:
    (crd,) = [crd for name, crd in definitions().items() if "rollout" in name]
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Version", "Phase", "Ring", "Updated", "Ready", "Reason", "Age"]
    wide = {column["name"]: column["jsonPath"] for column in columns if column.get("priority")}
    assert wide["Message"] == ".status.message"
