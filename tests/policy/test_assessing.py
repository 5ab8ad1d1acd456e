"""Which attempt decides, by which terms, and what is known of a device's other attempts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from otaflux_policy.assessing import (
    Assessment,
    Spans,
    assess,
    deciding,
    has_bytes,
    relevant,
    terms,
)
from otaflux_policy.attempts import Attempt, AttemptRef, AttemptState
from otaflux_policy.contract import Artifact, Confirmation, Policy, Release, ReleaseRun
from otaflux_policy.facts import Download, Facts, FirstOffer
from otaflux_policy.selectors import DeviceSelector

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def release(number: int) -> Release:
    artifact = Artifact(
        digest=digest(number + 100), size=1, media_type="x", repository="registry.example.com/fw"
    )
    return Release(version=f"1.{number}.0", digest=digest(number), artifacts=(artifact,))


STABLE, BAD, TARGET = release(1), release(2), release(3)
GONE = (
    ReleaseRun(version=BAD.version, digest=BAD.digest, run=2),
    ReleaseRun(version=TARGET.version, digest=TARGET.digest, run=3),
)
LIVE = Policy(
    namespace="home",
    name="thermostat",
    created_at=START,
    device_selector=DeviceSelector(),
    run=3,
    target=TARGET,
    stable=STABLE,
    rollback_from=GONE,
    device_timeout=86400,
    active_within=604800,
)
BACK = LIVE.model_copy(update={"run": 4, "rolling_back": True})
NEW = LIVE.model_copy(update={"target": None, "stable": None, "rollback_from": (), "run": 0})

REPORTS = terms(LIVE, Spans(), reports=True)
OFFERED = Facts(first_offer=FirstOffer(at(0), "canary"), last_offer=at(0))
BEGUN = replace(OFFERED, first_byte=at(1), last_request=at(1))
DONE = replace(BEGUN, target_first=at(9), target_last=at(9))
S = AttemptState


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LIVE, AttemptRef(3, TARGET.digest)),
        (BACK, AttemptRef(4, STABLE.digest)),
        (NEW, None),
        (BACK.model_copy(update={"stable": None}), None),
    ],
    ids=["live", "rolling back", "nothing released", "rolling back to nothing"],
)
def test_the_attempt_that_decides(policy: Policy, expected: AttemptRef | None) -> None:
    assert deciding(policy) == expected


def test_the_attempts_that_are_looked_at() -> None:
    assert relevant(NEW) == frozenset()
    assert relevant(LIVE) == {
        AttemptRef(2, BAD.digest),
        AttemptRef(3, TARGET.digest),
        AttemptRef(3, STABLE.digest),
    }
    assert deciding(BACK) in relevant(BACK)


@pytest.mark.parametrize(
    ("confirmation", "reports", "polled"),
    [
        (Confirmation.AUTO, True, False),
        (Confirmation.AUTO, False, True),
        (Confirmation.REPORTED, True, False),
        (Confirmation.REPORTED, False, False),
        (Confirmation.POLLED, True, True),
        (Confirmation.POLLED, False, True),
    ],
)
def test_whose_polls_stand_for_a_report(
    confirmation: Confirmation, reports: bool, polled: bool
) -> None:
    policy = LIVE.model_copy(update={"confirmation": confirmation})
    assert terms(policy, Spans(), reports=reports).polled is polled


def test_spans_are_those_of_the_rollout_and_of_the_settings() -> None:
    spans = Spans(
        install_grace=timedelta(seconds=1),
        poll_gap=timedelta(seconds=2),
        request_within=timedelta(seconds=3),
    )
    found = terms(LIVE.model_copy(update={"device_timeout": 4}), spans, reports=True)
    assert [
        span.total_seconds()
        for span in (
            found.install_grace,
            found.poll_gap,
            found.request_within,
            found.device_timeout,
        )
    ] == [1, 2, 3, 4]


def test_a_device_without_facts_has_no_attempt() -> None:
    assert assess(LIVE, {}, REPORTS, at(1)) == Assessment()
    assert assess(NEW, {AttemptRef(3, TARGET.digest): DONE}, REPORTS, at(10)) == Assessment()


def test_a_run_inherits_no_attempt_of_another() -> None:
    others = {
        AttemptRef(2, TARGET.digest): DONE,
        AttemptRef(4, TARGET.digest): DONE,
        AttemptRef(3, digest(9)): DONE,
    }
    again = LIVE.model_copy(update={"rollback_from": ()})
    found = assess(again, others, REPORTS, at(10))
    assert (found.attempt, found.standing, found.began) == (None, None, False)


def test_the_attempt_of_this_run_is_judged() -> None:
    known = {AttemptRef(3, TARGET.digest): DONE}
    found = assess(LIVE, known, REPORTS, at(10))
    assert found.standing is not None
    assert found.standing.state is S.UPDATED
    assert found.attempt == Attempt(S.UPDATED, touched=True)
    assert (found.began, found.ran, found.facts) == (True, True, DONE)


def test_an_offer_touches_nobody() -> None:
    found = assess(LIVE, {AttemptRef(3, TARGET.digest): OFFERED}, REPORTS, at(1))
    assert found.attempt == Attempt(S.OFFERED, touched=False)


def test_the_first_byte_of_any_release_since_stable_touches() -> None:
    found = assess(LIVE, {AttemptRef(2, BAD.digest): BEGUN}, REPORTS, at(5))
    assert found.attempt == Attempt(None, touched=True)
    assert (found.standing, found.began) == (None, False)


def test_on_the_way_back_the_attempt_at_stable_decides() -> None:
    known = {AttemptRef(3, TARGET.digest): DONE, AttemptRef(4, STABLE.digest): OFFERED}
    found = assess(BACK, known, REPORTS, at(1))
    assert found.attempt == Attempt(S.OFFERED, touched=True)
    assert assess(BACK, {AttemptRef(3, STABLE.digest): DONE}, REPORTS, at(10)).attempt is None


def test_who_said_once_that_it_ran_the_release_is_known_to_have() -> None:
    said = Facts(target_first=at(1), target_last=at(1), other_first=at(5), other_last=at(5))
    found = assess(BACK, {AttemptRef(3, TARGET.digest): said}, REPORTS, at(6))
    assert (found.ran, found.attempt) == (True, None)


def test_a_first_byte_without_an_offer_began_too() -> None:
    lone = Facts(first_byte=at(1), last_request=at(1))
    assert assess(LIVE, {AttemptRef(3, TARGET.digest): lone}, REPORTS, at(2)).began
    report = Facts(target_first=at(1), target_last=at(1))
    assert not assess(LIVE, {AttemptRef(3, TARGET.digest): report}, REPORTS, at(2)).began


def test_what_has_bytes() -> None:
    assert not has_bytes(None)
    assert not has_bytes(OFFERED)
    assert has_bytes(BEGUN)
    # The first byte may be known to another replica only.
    assert has_bytes(Facts(downloads=(Download(at(1), at(2)),)))
