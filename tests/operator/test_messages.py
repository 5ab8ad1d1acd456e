"""What `kubectl get fwr` tells a person: version, phase, ring, updated, and why it waits."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from otaflux_operator.resources.definitions import definitions
from tests.operator.worlds import AT_ONCE, World

FIFTY = {"members": 50, "active": 50}
ROLLBACK: dict[str, Any] = {"failure": {"action": "Rollback"}}
BROKEN = FIFTY | {"failed": 9, "failed_outcomes": 9}


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
        (
            {"uncounted": 2},
            {},
            "onEmpty: Skip would skip it; 2 more not counted yet (polled too little, ",
        ),
        (FIFTY | {"uncounted": 1}, {}, "0 of 50 updated, 1 more not counted yet (polled too "),
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


def test_how_a_rollback_ended_and_what_to_do_is_said_once() -> None:
    world = early(BROKEN, **ROLLBACK)
    world.counts = {"early": {"members": 9, "restored": 8}}
    world.settle()
    world.passes(25 * 3600)
    world.settle()
    assert world.status.message == (
        "1.1.0 was taken back: 8 of 9 devices are back on 1.0.0, 1 unconfirmed. "
        "Devices get 1.0.0 instead of 1.1.0: release another version, let the artifact name 1.0.0 "
        "again, or change spec.retryToken to run 1.1.0 again."
    )
    assert world.condition("Healthy").message == "1.1.0 failed and was taken back."


def test_a_rollback_after_a_failure_is_not_ready_and_says_how_far_it_is() -> None:
    world = early(BROKEN, **ROLLBACK)
    world.counts = {"early": {"members": 9, "restored": 3}}
    world.settle()
    assert world.reason("Ready") == "False/RollingBack"
    assert world.condition("Ready").message == world.status.message
    assert "3 of 9 devices are back on 1.0.0" in world.status.message
    assert world.condition("Healthy").message == "1.1.0 failed and is being taken back."
    world.counts = {"early": {"members": 9, "restored": 9}}
    world.release("1.0.0")
    assert world.reason("Ready") == "True/RolledBack"


def test_a_failure_while_paused_says_what_the_rollback_waits_for() -> None:
    world = early(FIFTY, **ROLLBACK)
    world.spec(state="Paused")
    world.counts = {"early": BROKEN}
    world.settle()
    assert world.reason("Ready") == "False/Paused"
    assert world.status.message == (
        "Paused: 1.1.0 failed in ring early, and is taken back once spec.state is Active."
    )


def test_a_failure_is_not_said_to_be_answered_while_the_spec_cannot_be_acted_upon() -> None:
    world = early(FIFTY, **ROLLBACK)
    world.spec(windows=[{"schedule": "0 0 30 2 *", "duration": "4h"}])
    world.counts = {"early": BROKEN}
    world.settle()
    assert "failed in ring early, and is not taken back yet. spec.windows" in world.status.message


def test_an_aborted_rollback_says_that_devices_keep_what_failed() -> None:
    world = early(BROKEN, **ROLLBACK)
    world.counts = {"early": {"members": 9, "restored": 3}}
    world.settle()
    world.spec(state="Aborted")
    world.settle()
    assert world.status.message == (
        "The rollback of 1.1.0 to 1.0.0 was aborted: devices that still have 1.1.0 keep it. "
        "With "
        "spec.state Active, release another version, let the artifact name 1.0.0, or change "
        "spec.retryToken to run 1.1.0 again."
    )
    assert world.reason("Healthy") == "False/Aborted"
    assert world.condition("Healthy").message == "1.1.0 failed and stays: its rollback was aborted."
    world.spec(state="Active")
    world.release("1.0.0")
    assert world.status.phase == "RollingBack"


def test_servers_that_do_not_answer_are_told_of_once() -> None:
    world = early(FIFTY)
    world.now += timedelta(seconds=200)
    world.answer = replace(world.answer, problem="connection refused")
    world.look()
    assert world.status.message.count("connection refused") == 1


def test_the_last_ring_past_its_deadline_has_no_next_one_to_open() -> None:
    world = World(rings=[{"name": "canary", "percent": 1, "deadline": "1h"}, {"name": "fleet"}])
    world.counts = {"canary": FIFTY}
    world.release("1.0.0")
    world.passes(3601)
    world.settle()
    assert world.reason("Stalled") == "True/DeadlineExceeded"
    assert "effect Override" in world.status.message
    world.spec(rings=[{"name": "canary", "percent": 1, "deadline": "1h"}])
    world.settle()
    assert world.reason("Stalled") == "True/DeadlineExceeded"
    assert "Override" not in world.status.message
    assert "write a longer deadline" in world.status.message


def test_the_columns_tell_what_a_person_looks_for() -> None:
    (crd,) = [crd for name, crd in definitions().items() if "rollout" in name]
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Version", "Phase", "Ring", "Updated", "Ready", "Reason", "Age"]
    wide = {column["name"]: column["jsonPath"] for column in columns if column.get("priority")}
    assert wide["Message"] == ".status.message"
