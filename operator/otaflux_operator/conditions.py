"""The one place that sets conditions."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from otaflux_operator.reasons import Reason
from otaflux_operator.resources.statuses import Condition, ConditionStatus, ConditionType


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a condition is to be: `holds` None means Unknown."""

    type: ConditionType
    holds: bool | None
    reason: Reason
    message: str = ""

    @property
    def status(self) -> ConditionStatus:
        """`holds` as conditions write it."""
        if self.holds is None:
            return ConditionStatus.UNKNOWN
        return ConditionStatus.TRUE if self.holds else ConditionStatus.FALSE


def conditions(
    before: Iterable[Condition], verdicts: Iterable[Verdict], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions that `verdicts` make of those before, in the order of the verdicts.

    `lastTransitionTime` changes only with the status (Kubernetes API conventions, "Typical
    status properties"); a condition without a verdict is gone.
    """
    known = {condition.type: condition for condition in before}
    return tuple(
        _condition(known.get(verdict.type), verdict, generation, now) for verdict in verdicts
    )


def find(known: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in known if condition.type is type_), None)


def transitions(before: Iterable[Condition], after: Iterable[Condition]) -> list[Condition]:
    """The conditions whose status or reason changed."""
    known = {condition.type: (condition.status, condition.reason) for condition in before}
    return [
        condition
        for condition in after
        if known.get(condition.type) != (condition.status, condition.reason)
    ]


def _condition(
    was: Condition | None, verdict: Verdict, generation: int, now: datetime
) -> Condition:
    same = was is not None and was.status is verdict.status
    return Condition(
        type=verdict.type,
        status=verdict.status,
        observed_generation=generation,
        last_transition_time=was.last_transition_time if was is not None and same else now,
        reason=verdict.reason,
        message=verdict.message,
    )
