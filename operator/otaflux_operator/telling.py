"""Which changes of conditions are told as events."""

from collections.abc import Iterable
from datetime import datetime

from otaflux_operator.conditions import transitions
from otaflux_operator.ports import Key, Notice
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import Condition, ConditionStatus, ConditionType

_WARNS_WHEN_FALSE = frozenset(
    {ConditionType.READY, ConditionType.ARTIFACT_RESOLVED, ConditionType.POLICY_SERVED}
)
_WARNS_WHEN_TRUE = frozenset({ConditionType.STALLED, ConditionType.LABEL_CONFLICT})
_PASSING = frozenset(
    {
        Reason.RESOLVING,
        Reason.STORING_ARTIFACT,
        Reason.PUBLISHING,
        Reason.WAITING_FOR_SERVERS,
        Reason.NOT_SERVED_YET,
        Reason.NOTHING_RELEASED,
    }
)


def notices(
    key: Key, uid: str, before: Iterable[Condition], after: Iterable[Condition], at: datetime
) -> list[Notice]:
    """One notice per transition that tells a person something, each reason once."""
    told: dict[str, Notice] = {}
    for condition in transitions(before, after):
        if condition.reason in _PASSING:
            continue
        holds = condition.status is ConditionStatus.TRUE
        if condition.status is ConditionStatus.UNKNOWN:
            continue
        warning = condition.type in (_WARNS_WHEN_TRUE if holds else _WARNS_WHEN_FALSE)
        if not holds and not warning:
            continue
        if condition.type is ConditionType.READY and condition.reason == Reason.COMPLETED:
            continue  # the condition Completed says it, perhaps in another write
        told.setdefault(
            condition.reason,
            Notice(key, uid, condition.reason, condition.message, warning, at),
        )
    return list(told.values())
