"""What is told as events: each transition once, by the write that makes it."""

import json
from datetime import timedelta
from typing import Any

import pytest

from otaflux_operator.ports import Kind
from otaflux_operator.reasons import MEANINGS, Reason
from otaflux_operator.resources import RolloutStatus
from otaflux_operator.telling import happenings
from tests.operator.fakes import rollout_key
from tests.operator.worlds import START, digest

KEY = rollout_key()
EARLIER = "2026-03-01T11:00:00Z"
LATER = "2026-03-01T11:30:00Z"


def release(version: str) -> dict[str, Any]:
    return {"version": version, "digest": digest(version)}


def status(**fields: Any) -> RolloutStatus:
    known = {"observedGeneration": 1, "run": 2, "release": release("1.1.0")}
    return RolloutStatus.model_validate_json(json.dumps(known | fields))


def ring(phase: str, **fields: Any) -> dict[str, Any]:
    return {"name": "canary", "phase": phase} | fields


def condition(type_: str, holds: str, reason: str, message: str = "why") -> dict[str, Any]:
    return {
        "type": type_,
        "status": holds,
        "lastTransitionTime": EARLIER,
        "reason": reason,
        "message": message,
    }


def told(before: RolloutStatus, after: RolloutStatus) -> list[tuple[str, bool]]:
    return [
        (notice.reason, notice.warning) for notice in happenings(KEY, "uid-1", before, after, START)
    ]


OPEN = ring("Open", openedAt=EARLIER)
SOAKING = ring("Soaking", openedAt=EARLIER, satisfiedAt=LATER)
COMPLETE = ring("Complete", openedAt=EARLIER, satisfiedAt=LATER, completedAt=LATER)
FAILED = ring("Failed", openedAt=EARLIER, failed=3, devices=9)
BACK = {"cause": "Failure", "from": "1.1.0", "to": "1.0.0", "startedAt": EARLIER}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"run": 1, "release": release("1.0.0")}, {}, [("RunStarted", False)]),
        ({"run": 0, "release": None}, {"run": 1}, [("RunStarted", False)]),
        ({"run": 0, "release": None}, {"run": 5, "release": None}, []),
        ({"rings": [ring("Pending")]}, {"rings": [OPEN]}, [("RingOpened", False)]),
        ({"rings": []}, {"rings": [OPEN]}, [("RingOpened", False)]),
        ({"rings": [OPEN]}, {"rings": [SOAKING]}, [("RingSoaking", False)]),
        ({"rings": [SOAKING]}, {"rings": [OPEN]}, []),
        ({"rings": [SOAKING]}, {"rings": [COMPLETE]}, [("RingCompleted", False)]),
        ({"rings": [ring("Pending")]}, {"rings": [COMPLETE]}, [("RingCompleted", False)]),
        ({"rings": [ring("Pending")]}, {"rings": [ring("Skipped")]}, [("RingSkipped", False)]),
        ({"rings": [OPEN]}, {"rings": [FAILED]}, [("RingFailed", True)]),
        ({"rings": [OPEN]}, {"rings": [OPEN | {"updated": 3, "devices": 9}]}, []),
        ({}, {"rollback": BACK, "run": 3}, [("RollbackStarted", True)]),
        (
            {},
            {"rollback": BACK | {"cause": "Revert"}, "run": 3},
            [("RollbackStarted", False)],
        ),
        ({"rollback": BACK}, {"rollback": BACK | {"restored": 3, "devices": 4}}, []),
        (
            {"rollback": BACK, "phase": "RollingBack"},
            {"rollback": BACK, "phase": "RolledBack"},
            [("RolledBack", False)],
        ),
        ({"phase": "RolledBack", "rollback": BACK}, {"phase": "RolledBack", "rollback": BACK}, []),
    ],
)
def test_each_transition_is_told_once(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    old, new = status(**before), status(**after)
    assert told(old, new) == expected
    assert told(new, new) == []


def test_a_retry_of_a_completed_release_tells_of_the_run_and_not_of_its_rings() -> None:
    before = status(rings=[COMPLETE])
    assert told(before, status(run=3, rings=[COMPLETE])) == [("RunStarted", False)]


def test_the_next_run_tells_of_its_rings_again() -> None:
    later = ring("Open", openedAt=LATER)
    after = status(run=3, release=release("1.2.0"), rings=[later])
    assert told(status(rings=[OPEN]), after) == [("RunStarted", False), ("RingOpened", False)]


def test_what_was_found_under_way_is_not_told_as_news() -> None:
    after = status(rings=[OPEN], rollback=BACK)
    assert told(RolloutStatus(), after) == []


def test_numbers_and_versions_are_named() -> None:
    ended = BACK | {"devices": 5, "restored": 3, "unconfirmed": 2}
    history = [
        {
            "run": 2,
            "version": "1.1.0",
            "digest": digest("1.1.0"),
            "result": "RolledBack",
            "message": "ring canary failed, 3 of 9 devices",
        }
    ]
    before = status(rings=[OPEN])
    failed = status(rings=[FAILED])
    started = status(run=3, rollback=BACK, history=history)
    over = status(run=3, rollback=ended, phase="RolledBack")
    messages = [
        notice.message
        for old, new in ((before, failed), (failed, started), (started, over))
        for notice in happenings(KEY, "uid-1", old, new, START)
    ]
    assert "canary failed: 3 of 9" in messages[0]
    assert "1.1.0 get 1.0.0 instead (ring canary failed, 3 of 9" in messages[1]
    assert "3 of 5 devices came back, 2 unconfirmed" in messages[2]


def test_a_condition_does_not_say_again_what_a_step_said() -> None:
    before = status(phase="RollingBack", rollback=BACK)
    after = status(
        phase="RolledBack",
        rollback=BACK,
        conditions=[condition("Stalled", "True", "RolledBack"), condition("Ready", "False", "X")],
    )
    assert told(before, after) == [("RolledBack", False), ("X", True)]


def test_a_reason_that_another_condition_gave_before_is_no_news() -> None:
    before = status(conditions=[condition("Healthy", "False", "RingFailed")])
    both = [condition("Healthy", "False", "RingFailed"), condition("Ready", "False", "RingFailed")]
    assert told(before, status(conditions=both)) == []
    assert told(status(), status(conditions=both)) == [("RingFailed", True)]


def test_coming_and_going_is_not_told() -> None:
    """A condition whose message changes with each count would be an event each time."""
    known = [condition("Ready", "True", "Progressing", "3 of 9")]
    other = [condition("Ready", "True", "Inconclusive", "the counts are old")]
    assert told(status(conditions=known), status(conditions=other)) == []
    assert told(status(conditions=other), status(conditions=known)) == []


@pytest.mark.parametrize(
    ("was", "expected"),
    [
        (("False", "NotServedYet"), []),
        (("Unknown", "ServerUnreachable"), []),
        (("False", "PolicyRejected"), [("Served", False)]),
    ],
)
def test_that_a_policy_is_served_is_told_after_a_warning(
    was: tuple[str, str], expected: list[tuple[str, bool]]
) -> None:
    before = status(conditions=[condition("PolicyServed", *was)])
    after = status(conditions=[condition("PolicyServed", "True", "Served")])
    assert told(before, after) == expected


def test_one_write_tells_a_bounded_number() -> None:
    rings = [OPEN | {"name": f"ring-{number}"} for number in range(20)]
    after = status(run=3, rings=rings)
    notices = happenings(KEY, "uid-1", status(), after, START + timedelta(days=1))
    assert len(notices) == 21
    assert {notice.key.kind for notice in notices} == {Kind.ROLLOUT}


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Reason)
