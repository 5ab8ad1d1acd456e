"""How far a release may go: gates, approvals, what cannot be judged, pause, edits in flight."""

from typing import Any

import pytest

from otaflux_operator.engine import Answer, Waiting
from tests.operator.worlds import AT_ONCE, World, digest, found

GATED = [
    {"name": "canary", "percent": 10, **AT_ONCE},
    {"name": "fleet", "gate": "Approval", **AT_ONCE},
]
UNJUDGED: list[dict[str, Any]] = [
    {"name": "canary", "percent": 10},
    {"name": "early", "percent": 50},
    {"name": "fleet"},
]


def approval(ring: str, release: str = "1.0.0", effect: str = "Gate") -> dict[str, str]:
    return {"ring": ring, "release": release, "effect": effect}


def test_a_gate_waits_for_approval_and_says_how() -> None:
    world = World(rings=GATED)
    world.release("1.0.0")
    outcome = world.look()
    assert world.rings() == {"canary": "Complete", "fleet": "AwaitingApproval"}
    assert world.status.phase == "AwaitingApproval"
    assert world.reason("Ready") == "True/AwaitingApproval"
    assert world.reason("Reconciling") == "False/Settled"
    assert world.reason("Completed") == "False/AwaitingApproval"
    assert "{ring: fleet, release: 1.0.0}" in world.status.message
    assert outcome.waiting == {Waiting.PERSON}


@pytest.mark.parametrize("release", ["1.0.0", digest("1.0.0")])
def test_an_approval_names_the_version_or_the_digest(release: str) -> None:
    world = World(rings=GATED)
    world.release("1.0.0")
    world.spec(approvals=[approval("fleet", release)])
    world.look()
    assert world.open_rings() == ["canary", "fleet"]


@pytest.mark.parametrize(
    "other", [approval("fleet", "1.0.1"), approval("fleet", digest("1.0.1")), approval("canary")]
)
def test_an_approval_of_something_else_opens_nothing(other: dict[str, str]) -> None:
    world = World(rings=GATED, approvals=[other])
    world.release("1.0.0")
    assert world.open_rings() == ["canary"]


def test_a_gate_approval_may_come_with_the_tag_but_waits_for_the_ring_before() -> None:
    world = World(rings=[UNJUDGED[0], GATED[1]], approvals=[approval("fleet")])
    world.release("1.0.0")
    assert world.open_rings() == ["canary"]
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}


def test_approvals_do_not_carry_over_to_the_next_release() -> None:
    world = World(rings=GATED, approvals=[approval("fleet")])
    world.release("1.0.0")
    assert world.status.phase == "Completed"
    world.release("1.1.0")
    assert world.status.phase == "AwaitingApproval"
    assert world.open_rings() == ["canary"]


def test_a_ring_stays_open_when_its_approval_is_removed() -> None:
    world = World(rings=GATED)
    world.release("1.0.0")
    world.spec(approvals=[approval("fleet")])
    world.look()
    world.spec(approvals=[])
    world.look()
    assert world.open_rings() == ["canary", "fleet"]


def test_a_gate_holds_the_first_ring_too() -> None:
    world = World(rings=[{"name": "fleet", "gate": "Approval", **AT_ONCE}])
    world.release("1.0.0")
    assert world.policy.target is not None
    assert world.open_rings() == []
    assert world.status.phase == "AwaitingApproval"


def test_a_ring_that_needs_evidence_waits_as_inconclusive() -> None:
    world = World(rings=UNJUDGED)
    world.counts = None
    world.release("1.0.0")
    outcome = world.look()
    assert world.rings() == {"canary": "Open", "early": "Pending", "fleet": "Pending"}
    assert world.status.phase == "Progressing"
    assert world.reason("Ready") == "True/Inconclusive"
    assert world.reason("Completed") == "False/Inconclusive"
    assert "{ring: early, release: 1.0.0, effect: Override}" in world.status.message
    assert "have not read their evidence" in world.status.message
    assert outcome.waiting == {Waiting.EVIDENCE}


@pytest.mark.parametrize(
    "needs",
    [
        {"success": {"minUpdatedPercent": 1, "minDevices": 0}},
        {"success": {"minUpdatedPercent": 0, "minDevices": 1}},
        {**AT_ONCE, "soak": "1s"},
    ],
)
def test_whatever_needs_evidence_is_inconclusive(needs: dict[str, object]) -> None:
    world = World(rings=[{"name": "canary", "percent": 10, **needs}, {"name": "fleet", **AT_ONCE}])
    world.counts = None
    world.release("1.0.0")
    assert world.open_rings() == ["canary"]


def test_an_override_opens_a_ring_although_the_one_before_is_not_complete() -> None:
    world = World(rings=UNJUDGED)
    world.release("1.0.0")
    world.spec(approvals=[approval("early", effect="Override")])
    world.settle()
    assert world.open_rings() == ["canary", "early"]
    assert world.status.current_ring == "early"
    assert world.status.ring_summary == "2/3"


def test_an_override_opens_only_its_ring_and_passes_its_gate() -> None:
    rings = [UNJUDGED[0], UNJUDGED[1], GATED[1]]
    world = World(rings=rings, approvals=[approval("fleet", effect="Override")])
    world.release("1.0.0")
    assert world.open_rings() == ["canary", "fleet"]
    assert world.status.phase == "Progressing"


def test_everything_complete_but_an_earlier_ring_is_not_completed() -> None:
    world = World(
        rings=[UNJUDGED[0], {"name": "fleet", **AT_ONCE}],
        approvals=[approval("fleet", effect="Override")],
    )
    world.release("1.0.0")
    assert world.rings() == {"canary": "Open", "fleet": "Complete"}
    assert world.status.phase == "Progressing"
    assert world.policy.stable is None


def test_a_ring_added_to_a_run_opens_in_its_turn() -> None:
    world = World(rings=GATED)
    world.release("1.0.0")
    world.spec(rings=[GATED[0], {"name": "early", "percent": 50, **AT_ONCE}, GATED[1]])
    world.settle()
    assert world.rings() == {
        "canary": "Complete",
        "early": "Complete",
        "fleet": "AwaitingApproval",
    }


def test_a_ring_added_after_completion_is_part_of_it() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(rings=[{"name": "other", "percent": 5}, {"name": "fleet"}])
    world.settle()
    assert world.open_rings() == ["other", "fleet"]
    assert world.status.phase == "Completed"


def test_a_pause_acts_at_once_and_nothing_moves() -> None:
    world = World()
    world.resolves(found("1.0.0"))
    world.look()
    world.serve()
    world.look()
    world.spec(state="Paused")
    world.answer = Answer(problem="no route")
    world.look()
    assert world.policy.state == "Paused"
    world.serve()
    world.settle()
    assert world.open_rings() == ["canary"]
    assert world.status.phase == "Paused"
    assert world.reason("Ready") == "True/Paused"
    assert world.status.message.startswith("Paused")
    world.spec(state="Active")
    world.settle()
    assert world.status.phase == "Completed"


def test_a_pause_needs_no_registry() -> None:
    world = World()
    world.release("1.0.0")
    world.resolves(None)
    world.spec(state="Paused")
    world.look()
    assert world.policy.state == "Paused"
    assert world.policy.target is not None


def test_a_candidate_waits_while_paused() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(state="Paused")
    world.tag("1.1.0")
    world.settle()
    assert world.status.run == 1
    assert world.policy.candidate is not None
    assert world.reason("Ready") == "False/Paused"
    assert world.reason("Reconciling") == "False/Settled"
    assert "1.1.0 waits until spec.state is Active" in world.status.message
    world.spec(state="Active")
    world.settle()
    assert (world.status.run, world.status.phase) == (2, "Completed")


def test_an_approval_acts_without_registry_and_servers() -> None:
    world = World(rings=GATED)
    world.release("1.0.0")
    world.resolves(None)
    world.answer = Answer(problem="no route")
    world.spec(approvals=[approval("fleet")])
    world.look()
    assert world.open_rings() == ["canary", "fleet"]


def test_the_policy_carries_what_rings_say() -> None:
    rings = [
        {
            "name": "lab",
            "deviceSelector": {"names": ["lab-*"], "matchLabels": {"site": "berlin"}},
            "maxConcurrent": 5,
            "failure": {"maxPercent": 7, "minSample": 2, "action": "Rollback"},
        },
        {"name": "fleet"},
    ]
    world = World(rings=rings, deviceTimeout="1h", activeWithin="2h")
    world.look()
    lab, fleet = world.policy.rings
    assert lab.selector is not None
    assert (lab.selector.names, lab.selector.match_labels) == (("lab-*",), {"site": "berlin"})
    assert lab.max_concurrent == 5
    assert lab.failure is not None
    assert (lab.failure.max_percent, lab.failure.min_sample) == (7, 2)
    assert lab.failure.action == "Rollback"
    assert (fleet.selector, fleet.percent) == (None, None)
    assert (world.policy.device_timeout, world.policy.active_within) == (3600, 7200)


def with_canary_open() -> World:
    """Ring canary of two is open and has no success yet."""
    world = World(rings=[UNJUDGED[0], UNJUDGED[2]])
    world.counts = {"canary": {"members": 4, "active": 4, "pending": 4}}
    world.release("1.0.0")
    assert world.rings() == {"canary": "Open", "fleet": "Pending"}
    return world


def test_rings_go_on_by_name_when_they_are_reordered() -> None:
    world = with_canary_open()
    opened = world.status.rings[0].opened_at
    world.spec(rings=[UNJUDGED[1] | {"percent": 5}, UNJUDGED[0], UNJUDGED[2]])
    world.settle()
    assert world.rings() == {"early": "Open", "canary": "Open", "fleet": "Pending"}
    assert world.status.rings[1].opened_at == opened
    assert "Ring canary was open before ring early was put in front: " in world.status.message


def test_no_ring_opens_behind_one_that_was_put_in_front() -> None:
    world = with_canary_open()
    world.spec(rings=[UNJUDGED[1] | {"percent": 5}, UNJUDGED[0], UNJUDGED[2]])
    world.counts = {"canary": {"members": 4, "active": 4, "succeeded": 4, "updated": 4}}
    world.settle()
    assert world.rings() == {"early": "Open", "canary": "Complete", "fleet": "Pending"}
    assert world.open_rings() == ["early", "canary"]


def test_a_ring_that_is_removed_while_open_is_open_again_where_it_comes_back() -> None:
    world = with_canary_open()
    opened = world.status.rings[0].opened_at
    world.spec(rings=[UNJUDGED[2] | {"gate": "Approval"}])
    world.settle()
    assert world.open_rings() == []
    assert "Ring canary was open when removed" in world.status.message
    world.spec(rings=[UNJUDGED[0], UNJUDGED[2]])
    world.settle()
    assert world.open_rings() == ["canary"]
    assert world.status.rings[0].opened_at == opened


def test_a_renamed_ring_is_another_ring() -> None:
    world = with_canary_open()
    world.spec(rings=[UNJUDGED[0] | {"name": "first", "gate": "Approval"}, UNJUDGED[2]])
    world.settle()
    assert world.rings()["first"] == "AwaitingApproval"
    assert world.open_rings() == []


def test_removed_rings_leave_the_status_with_their_run() -> None:
    world = with_canary_open()
    world.spec(rings=[{"name": "fleet", **AT_ONCE}])
    world.settle()
    assert world.status.phase == "Completed"
    assert world.rings() == {"fleet": "Complete"}


def test_a_status_tells_of_twenty_rings_at_most() -> None:
    """The CRD has room for no more."""
    many: list[dict[str, Any]] = [
        {"name": f"ring-{place}", "percent": 5 * (place + 1)} for place in range(20)
    ]
    names = [ring["name"] for ring in many]
    approvals = [approval(str(name), effect="Override") for name in names]
    world = World(rings=many, approvals=approvals)
    world.release("1.0.0")
    assert world.open_rings() == names
    world.spec(rings=[ring | {"name": f"new-{ring['name']}"} for ring in many], approvals=[])
    world.settle()
    assert len(world.status.rings) == 20
    assert "new-ring-19" in world.rings()


def test_counts_of_rings_as_they_were_complete_nothing() -> None:
    """The canary is grown from 10 to 50 %: what is counted is still the 10 %."""
    world = with_canary_open()
    world.counts = {"canary": {"members": 4, "active": 4, "succeeded": 4, "updated": 4}}
    world.serve()
    world.spec(rings=[UNJUDGED[0] | {"percent": 50}, UNJUDGED[2]])
    world.look()
    assert world.rings()["canary"] == "Open"
    assert "edited" in world.status.message
    world.counts = {"canary": {"members": 20, "active": 20, "succeeded": 4, "updated": 4}}
    world.settle()
    assert world.rings()["canary"] == "Open"
