"""Conditions, their reasons, and which of their changes are told."""

from datetime import timedelta

import otaflux_oci.errors
from otaflux_oci import OciError
from otaflux_operator.conditions import Verdict, conditions
from otaflux_operator.ports import Key, Kind
from otaflux_operator.reasons import MEANINGS, Reason, registry_reason
from otaflux_operator.resources import Condition, ConditionType
from otaflux_operator.telling import notices
from tests.operator.worlds import START

KEY = Key(Kind.ROLLOUT, "home", "thermostat")
LATER = START + timedelta(hours=1)


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Reason)
    assert all(text.endswith(".") for text in MEANINGS.values())
    assert all(reason.isalpha() and reason[0].isupper() for reason in Reason)


def test_every_error_of_the_registry_client_is_a_reason() -> None:
    errors = [
        error
        for error in vars(otaflux_oci.errors).values()
        if isinstance(error, type) and issubclass(error, OciError)
    ]
    assert len(errors) > 15
    assert [registry_reason(error.reason) for error in errors] == [error.reason for error in errors]
    assert registry_reason("Other") is Reason.OCI_ERROR


def ready(before: tuple[Condition, ...], holds: bool | None, reason: Reason) -> Condition:
    verdict = Verdict(ConditionType.READY, holds, reason, "why")
    (found,) = conditions(before, [verdict], 7, LATER)
    return found


def test_the_transition_time_changes_with_the_status_alone() -> None:
    (first,) = conditions((), [Verdict(ConditionType.READY, None, Reason.RESOLVING)], 1, START)
    assert first.last_transition_time == START
    same = ready((first,), None, Reason.PUBLISHING)
    assert (same.last_transition_time, same.reason) == (START, "Publishing")
    assert same.observed_generation == 7
    assert ready((first,), True, Reason.PROGRESSING).last_transition_time == LATER


def told(before: Verdict | None, after: Verdict) -> list[tuple[str, bool]]:
    was = conditions((), [before], 1, START) if before is not None else ()
    found = notices(KEY, "uid", was, conditions(was, [after], 2, LATER), LATER)
    return [(notice.reason, notice.warning) for notice in found]


def test_a_failure_is_told_as_a_warning_once() -> None:
    failed = Verdict(ConditionType.ARTIFACT_RESOLVED, False, Reason.UNAUTHORIZED, "401")
    assert told(None, failed) == [("Unauthorized", True)]
    assert told(failed, failed) == []
    assert told(failed, Verdict(failed.type, False, Reason.FORBIDDEN)) == [("Forbidden", True)]
    assert told(failed, Verdict(failed.type, True, Reason.RESOLVED)) == [("Resolved", False)]


def test_what_passes_by_itself_is_not_told() -> None:
    for reason in (Reason.RESOLVING, Reason.STORING_ARTIFACT, Reason.WAITING_FOR_SERVERS):
        assert told(None, Verdict(ConditionType.READY, False, reason)) == []
    assert told(None, Verdict(ConditionType.STALLED, False, Reason.NOT_STALLED)) == []


def test_one_reason_of_several_conditions_is_told_once() -> None:
    verdicts = [
        Verdict(ConditionType.READY, False, Reason.NOT_SUPPORTED),
        Verdict(ConditionType.STALLED, True, Reason.NOT_SUPPORTED),
    ]
    found = notices(KEY, "uid", (), conditions((), verdicts, 1, START), START)
    assert [notice.reason for notice in found] == ["NotSupported"]
