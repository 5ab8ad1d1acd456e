"""The decision table of `docs/architecture.md`, row by row, and what holds for every input."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otaflux_policy.attempts import Attempt, AttemptState, Evidence
from otaflux_policy.cohorts import bucket, within
from otaflux_policy.contract import (
    Artifact,
    Compatibility,
    Downgrade,
    Policy,
    Release,
    ReleaseRun,
    Ring,
    State,
)
from otaflux_policy.decisions import Decision, decide, match
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group, Groups
from otaflux_policy.reasons import MEANINGS, DecisionReason
from otaflux_policy.selectors import DeviceSelector
from otaflux_policy.windows import Window
from tests.policy import strategies

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NIGHT = Window(schedule="0 2 * * *", duration=3600)


def release(version: str, number: int) -> Release:
    artifact = Artifact(
        digest=f"sha256:{number:064x}",
        size=1024,
        media_type="application/octet-stream",
        repository="registry.example.com/firmware/thermostat",
    )
    return Release(version=version, digest=f"sha256:{number + 100:064x}", artifacts=(artifact,))


STABLE, TARGET = release("1.3.2", 1), release("1.4.0", 2)
GONE = ReleaseRun(version="1.3.9", digest=f"sha256:{103:064x}", run=1)
STORED = frozenset({STABLE.firmware.digest, TARGET.firmware.digest})
ROLLOUT = Policy(
    namespace="home",
    name="thermostat",
    created_at=NOW - timedelta(days=1),
    device_selector=DeviceSelector(),
    run=2,
    target=TARGET,
    stable=STABLE,
    rings=(
        Ring(name="canary", selector=DeviceSelector(match_labels={"ring": "canary"}), open=True),
        Ring(name="fleet"),
    ),
    device_timeout=86400,
    active_within=604800,
)
ROLLING_BACK = ROLLOUT.model_copy(
    update={
        "rolling_back": True,
        "rollback_from": (ReleaseRun(version="1.4.0", digest=TARGET.digest, run=2),),
    }
)
GROUPS = Groups(
    [Group(namespace="home", name="canaries", names=("k-1",), labels={"ring": "canary"})]
)


@dataclass
class Case:
    """What differs from: rollout ROLLOUT, canary k-1 of unknown version, nothing recorded."""

    want: tuple[Release | None, DecisionReason]
    policy: Policy = ROLLOUT
    device: str = "k-1"
    version: str | None = None
    digest: str | None = None
    state: AttemptState | None = None
    touched: bool = False
    slots: dict[tuple[str, str], int] = field(default_factory=dict)
    tripped: bool = False
    stored: frozenset[str] = STORED


def changed(policy: Policy = ROLLOUT, **update: object) -> Policy:
    return policy.model_copy(update=update)


def limited(policy: Policy = ROLLOUT) -> Policy:
    rings = tuple(ring.model_copy(update={"max_concurrent": 1}) for ring in policy.rings)
    return policy.model_copy(update={"rings": rings})


R = DecisionReason
ONE_SLOT = {("thermostat", "canary"): 1}
CASES = {
    # attempt failed or timed out
    "failed": Case((None, R.PREVIOUSLY_FAILED), state=AttemptState.FAILED),
    "timed out": Case((None, R.PREVIOUSLY_FAILED), state=AttemptState.TIMED_OUT),
    "failed while paused": Case(
        (None, R.PREVIOUSLY_FAILED), changed(state=State.PAUSED), state=AttemptState.FAILED
    ),
    "failed at the stable release": Case(
        (None, R.PREVIOUSLY_FAILED), ROLLING_BACK, state=AttemptState.FAILED, touched=True
    ),
    # what it should get is not stored
    "target not stored": Case((None, R.ARTIFACT_UNAVAILABLE), stored=frozenset()),
    "stable not stored": Case((None, R.ARTIFACT_UNAVAILABLE), device="k-2", stored=frozenset()),
    "rollback not stored": Case(
        (None, R.ARTIFACT_UNAVAILABLE),
        ROLLING_BACK,
        touched=True,
        stored=frozenset(),
        state=AttemptState.DOWNLOADED,
    ),
    # updated, restored
    "updated": Case((TARGET, R.UP_TO_DATE), state=AttemptState.UPDATED),
    "updated by report": Case((TARGET, R.UP_TO_DATE), version="1.4.0"),
    "updated in a closed ring": Case((TARGET, R.UP_TO_DATE), device="k-2", version="1.4.0"),
    "updated while paused": Case(
        (TARGET, R.UP_TO_DATE), changed(state=State.PAUSED), version="1.4.0"
    ),
    "updated, aborted": Case((TARGET, R.UP_TO_DATE), changed(state=State.ABORTED), version="1.4.0"),
    "restored": Case((STABLE, R.UP_TO_DATE), ROLLING_BACK, version="1.3.2"),
    # paused, aborted
    "paused": Case((None, R.PAUSED), changed(state=State.PAUSED)),
    "paused in flight": Case(
        (None, R.PAUSED), changed(state=State.PAUSED), state=AttemptState.OFFERED
    ),
    "aborted": Case((None, R.ABORTED), changed(state=State.ABORTED)),
    "paused, closed ring": Case((None, R.PAUSED), changed(state=State.PAUSED), device="k-2"),
    "paused rollback": Case(
        (None, R.PAUSED), changed(ROLLING_BACK, state=State.PAUSED), touched=True
    ),
    # rolling back, touched
    "touched": Case(
        (STABLE, R.ROLLING_BACK), ROLLING_BACK, state=AttemptState.OFFERED, touched=True
    ),
    "known to run it": Case((STABLE, R.ROLLING_BACK), ROLLING_BACK, version="1.4.0"),
    "known by digest": Case((STABLE, R.ROLLING_BACK), ROLLING_BACK, digest=TARGET.digest),
    "no slot": Case((None, R.CONCURRENCY_LIMIT), limited(ROLLING_BACK), version="1.4.0"),
    "a slot": Case(
        (STABLE, R.ROLLING_BACK), limited(ROLLING_BACK), version="1.4.0", slots=ONE_SLOT
    ),
    # rolling back, untouched
    "untouched, unknown": Case((STABLE, R.RING_CLOSED), ROLLING_BACK),
    "untouched, older": Case((STABLE, R.RING_CLOSED), ROLLING_BACK, version="1.2.0"),
    "untouched, newer": Case((None, R.RING_CLOSED), ROLLING_BACK, version="2.0.0"),
    # open
    "newer than the target": Case((None, R.DOWNGRADE_FORBIDDEN), version="1.5.0"),
    "newer, downgrade allowed": Case(
        (TARGET, R.OFFERED), changed(downgrade=Downgrade.ALLOW), version="1.5.0"
    ),
    "tripped, in flight": Case(
        (None, R.BREAKER_OPEN), state=AttemptState.DOWNLOADING, tripped=True
    ),
    "tripped, not begun": Case((STABLE, R.BREAKER_OPEN), tripped=True),
    "tripped, newer than stable": Case((None, R.BREAKER_OPEN), tripped=True, version="1.3.9"),
    "in flight keeps its slot": Case((TARGET, R.OFFERED), limited(), state=AttemptState.OFFERED),
    "in flight outside the window": Case(
        (TARGET, R.OFFERED), changed(windows=(NIGHT,)), state=AttemptState.INSTALLING
    ),
    "not requested needs a slot": Case(
        (STABLE, R.CONCURRENCY_LIMIT), limited(), state=AttemptState.NOT_REQUESTED
    ),
    "withdrawn may come again": Case((TARGET, R.OFFERED), state=AttemptState.WITHDRAWN),
    "open": Case((TARGET, R.OFFERED)),
    "open, older": Case((TARGET, R.OFFERED), version="1.2.0"),
    "open, unordered": Case((TARGET, R.OFFERED), version="garbage"),
    "open with a slot": Case((TARGET, R.OFFERED), limited(), slots=ONE_SLOT),
    "open without a slot": Case((STABLE, R.CONCURRENCY_LIMIT), limited()),
    "outside the window": Case((None, R.OUTSIDE_WINDOW), changed(windows=(NIGHT,))),
    # closed
    "closed, unknown version": Case((STABLE, R.RING_CLOSED), device="k-2"),
    "closed, older": Case((STABLE, R.RING_CLOSED), device="k-2", version="1.2.0"),
    "closed, newer": Case((None, R.RING_CLOSED), device="k-2", version="1.3.9"),
    "closed, unordered": Case((None, R.RING_CLOSED), device="k-2", version="garbage"),
    "closed, runs the target": Case((TARGET, R.UP_TO_DATE), device="k-2", digest=TARGET.digest),
    "closed, no stable": Case((None, R.RING_CLOSED), changed(stable=None), device="k-2"),
    "closed, outside the window": Case(
        (None, R.RING_CLOSED), changed(windows=(NIGHT,)), device="k-2"
    ),
    "closed, runs what came since stable": Case(
        (None, R.RING_CLOSED), changed(rollback_from=(GONE,)), device="k-2", digest=GONE.digest
    ),
    "closed, runs the stable one": Case(
        (STABLE, R.RING_CLOSED),
        changed(rollback_from=(GONE,)),
        device="k-2",
        digest=STABLE.digest,
    ),
    "closed since its download, unknown version": Case(
        (None, R.RING_CLOSED), device="k-2", state=AttemptState.DOWNLOADED, touched=True
    ),
    # completed: the target is the stable release
    "completed, without a slot": Case(
        (None, R.CONCURRENCY_LIMIT), limited(changed(stable=TARGET)), version="1.2.0"
    ),
    "completed, tripped": Case((None, R.BREAKER_OPEN), changed(stable=TARGET), tripped=True),
    "no target yet": Case((None, R.RING_CLOSED), changed(target=None, stable=None)),
    "no rings": Case((STABLE, R.RING_CLOSED), changed(rings=())),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_table(case: Case) -> None:
    attempts = {"thermostat": Attempt(case.state, case.touched)} if case.state else {}
    evidence = Evidence(
        stored=case.stored,
        attempts=attempts,
        slots=case.slots,
        tripped=frozenset({"thermostat"} if case.tripped else ()),
    )
    device = Device("home", case.device, None, case.version, case.digest)
    if case.touched and case.state is None:
        evidence = replace(
            evidence, attempts={"thermostat": Attempt(AttemptState.WITHDRAWN, touched=True)}
        )
    decision = decide([case.policy], GROUPS, device, evidence, NOW)
    assert (decision.release, decision.reason) == case.want
    assert (decision.rollout, decision.run) == ("thermostat", 2)


def bare(*policies: Policy, device: Device) -> Decision:
    return decide(policies, Groups(), device, Evidence(stored=STORED), NOW)


def test_nothing_matches() -> None:
    named = changed(device_selector=DeviceSelector(names=("other",)))
    foreign = changed(namespace="office")
    decision = bare(named, foreign, device=Device("home", "k-1"))
    assert decision == Decision(None, None, None, DecisionReason.NO_MATCH)


@pytest.mark.parametrize(
    ("compatibility", "model", "version", "fits"),
    [
        (Compatibility(models=("v2",)), "v2", None, True),
        (Compatibility(models=("v2",)), "v1", None, False),
        (Compatibility(models=("v2",)), None, None, False),
        (Compatibility(min_version="1.2.0"), None, "1.2.0", True),
        (Compatibility(min_version="1.2.0"), None, "1.1.9", False),
        (Compatibility(min_version="1.2.0"), None, None, False),
        (Compatibility(min_version="1.2.0"), None, "garbage", False),
    ],
)
def test_compatibility(
    compatibility: Compatibility, model: str | None, version: str | None, fits: bool
) -> None:
    policy = changed(compatibility=compatibility)
    decision = bare(policy, device=Device("home", "k-1", model, version))
    assert (decision.reason is DecisionReason.INCOMPATIBLE) is not fits


def test_the_next_rollout_is_tried_so_stepping_stones_work() -> None:
    last = changed(name="last", priority=1, compatibility=Compatibility(min_version="1.3.0"))
    step = changed(name="step", priority=0)
    assert bare(last, step, device=Device("home", "k-1", version="1.2.0")).rollout == "step"
    assert bare(last, step, device=Device("home", "k-1", version="1.3.0")).rollout == "last"


def test_a_group_gives_the_model_of_a_device_that_reports_none() -> None:
    policy = changed(compatibility=Compatibility(models=("v2",)))
    groups = Groups([Group(namespace="home", name="g", names=("k-1",), model="v2")])
    assert match([policy], groups, Device("home", "k-1")) is not DecisionReason.INCOMPATIBLE
    assert match([policy], groups, Device("home", "k-1", "v1")) is DecisionReason.INCOMPATIBLE


def test_priority_then_age_then_name_and_a_paused_one_shadows() -> None:
    device = Device("home", "k-1")
    old = changed(name="old", created_at=NOW - timedelta(days=9))
    high = changed(name="high", priority=5, state=State.PAUSED)
    assert bare(ROLLOUT, old, device=device).rollout == "old"
    assert bare(old, high, device=device).reason is DecisionReason.PAUSED
    assert bare(changed(name="b"), changed(name="a"), device=device).rollout == "a"


@settings(max_examples=300)
@given(
    strategies.rollouts,
    strategies.groups,
    strategies.devices,
    strategies.evidence,
    strategies.times,
)
def test_total_deterministic_and_one_rollout_wins(
    policies: list[Policy],
    groups: list[Group],
    device: Device,
    evidence: Evidence,
    now: datetime,
) -> None:
    decision = decide(policies, Groups(groups), device, evidence, now)
    assert decision == decide(
        list(reversed(policies)), Groups(reversed(groups)), device, evidence, now
    )
    assert decision.reason in MEANINGS
    winners = [
        p for p in policies if p.namespace == device.namespace and p.name == decision.rollout
    ]
    assert len(winners) == (decision.rollout is not None)
    if decision.release is not None:
        assert decision.release in (winners[0].target, winners[0].stable)
        assert decision.release.firmware.digest in evidence.stored


@settings(max_examples=300)
@given(
    strategies.policies,
    strategies.groups,
    strategies.devices,
    strategies.evidence,
    strategies.times,
)
def test_nothing_is_offered_where_a_rule_forbids_it(
    policy: Policy, groups: list[Group], device: Device, evidence: Evidence, now: datetime
) -> None:
    decision = decide([policy], Groups(groups), device, evidence, now)
    if decision.release is None or decision.reason is DecisionReason.UP_TO_DATE:
        return
    attempt = evidence.attempts.get(policy.name)
    assert policy.state is State.ACTIVE
    assert attempt is None or attempt.state not in (AttemptState.FAILED, AttemptState.TIMED_OUT)
    assert decision.release != policy.candidate or decision.release in (
        policy.target,
        policy.stable,
    )
    if decision.reason is DecisionReason.OFFERED:
        assert next(r for r in policy.rings if r.name == decision.ring).open
        assert not policy.rolling_back
        assert policy.name not in evidence.tripped


@given(
    strategies.policies,
    strategies.groups,
    strategies.devices,
    st.integers(0, 2),
    st.integers(1, 99),
)
def test_growing_a_percentage_never_removes_a_device(
    policy: Policy, groups: list[Group], device: Device, index: int, percent: int
) -> None:
    target = policy.target or TARGET
    rings = (Ring(name="first", percent=percent, open=True),)
    grown = (Ring(name="first", percent=percent + 1, open=True),)
    before = match([changed(policy, target=target, rings=rings)], Groups(groups), device)
    after = match([changed(policy, target=target, rings=grown)], Groups(groups), device)
    if isinstance(before, DecisionReason) or isinstance(after, DecisionReason):
        assert before == after
    elif before.ring is not None:
        assert after.ring is not None
        assert within(percent, bucket(policy.namespace, policy.name, target.digest, device.id))


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(DecisionReason)
