"""Which changes of a status are told as events: each once, by the write that makes it."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from otaflux_operator.conditions import find, transitions
from otaflux_operator.ports import Key, Notice
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    Condition,
    ConditionStatus,
    ConditionType,
    Phase,
    RingPhase,
    RingStatus,
    RollbackCause,
    RollbackStatus,
    RolloutStatus,
)

_WARNS_WHEN_FALSE = frozenset(
    {
        ConditionType.READY,
        ConditionType.ARTIFACT_RESOLVED,
        ConditionType.POLICY_SERVED,
        ConditionType.HEALTHY,
    }
)
_WARNS_WHEN_TRUE = frozenset({ConditionType.STALLED, ConditionType.LABEL_CONFLICT})
_RECOVERING = frozenset({ConditionType.POLICY_SERVED, ConditionType.HEALTHY})
"""That they hold is told only after it was told that they do not."""

_PASSING = frozenset(
    {
        Reason.RESOLVING,
        Reason.STORING_ARTIFACT,
        Reason.PUBLISHING,
        Reason.WAITING_FOR_SERVERS,
        Reason.NOT_SERVED_YET,
        Reason.NOTHING_RELEASED,
        # What the run goes through says these, and they may come and go.
        Reason.PROGRESSING,
        Reason.SOAKING,
        Reason.INCONCLUSIVE,
        Reason.ROLLING_BACK,
    }
)


def happenings(
    key: Key, uid: str, before: RolloutStatus, after: RolloutStatus, at: datetime
) -> list[Notice]:
    """What a rollout went through from one status to the next, and which conditions turned.

    At most one per ring beside one per reason. Nothing is told of a run that was found under way
    (`before` is the empty status).
    """
    told: list[Notice] = []
    if before.observed_generation:
        told = [
            Notice(key, uid, reason, message, warning, at)
            for reason, message, warning in _steps(before, after)
        ]
    reasons = {notice.reason for notice in told}
    turned = notices(key, uid, before.conditions, after.conditions, at)
    return told + [notice for notice in turned if notice.reason not in reasons]


def notices(
    key: Key, uid: str, before: Iterable[Condition], after: Iterable[Condition], at: datetime
) -> list[Notice]:
    """One notice per condition that turned and tells a person something, each reason once.

    None for a reason that another condition gave before already.
    """
    told: dict[str, Notice] = {}
    known = list(before)
    given = {condition.reason for condition in known if _tells(condition)}
    for condition in transitions(known, after):
        if not _tells(condition) or condition.reason in given:
            continue
        holds = condition.status is ConditionStatus.TRUE
        if holds and condition.type in _RECOVERING and not _was_told(known, condition.type):
            continue
        if condition.type is ConditionType.READY and condition.reason == Reason.COMPLETED:
            continue  # the condition Completed says it, perhaps in another write
        told.setdefault(
            condition.reason,
            Notice(key, uid, condition.reason, condition.message, _warns(condition), at),
        )
    return list(told.values())


def tampering(key: Key, uid: str, what: str, at: datetime) -> Notice:
    """That somebody else changed what is published for the object, and it was written again."""
    text = f"What is published for it was changed by somebody else, and was written again: {what}."
    return Notice(key, uid, Reason.POLICY_TAMPERED, text, True, at)


def _tells(condition: Condition) -> bool:
    """Whether it says something that a person may want to know."""
    if condition.reason in _PASSING or condition.status is ConditionStatus.UNKNOWN:
        return False
    return condition.status is ConditionStatus.TRUE or _warns(condition)


def _warns(condition: Condition) -> bool:
    holds = condition.status is ConditionStatus.TRUE
    return condition.type in (_WARNS_WHEN_TRUE if holds else _WARNS_WHEN_FALSE)


def _was_told(known: Iterable[Condition], type_: ConditionType) -> bool:
    was = find(known, type_)
    return was is not None and was.status is ConditionStatus.FALSE and was.reason not in _PASSING


Step = tuple[Reason, str, bool]
"""The reason, a sentence, and whether it is a warning."""


def _steps(before: RolloutStatus, after: RolloutStatus) -> Iterator[Step]:
    release, rollback = after.release, after.rollback
    if rollback is not None and (before.rollback is None or after.run != before.run):
        yield _rollback_started(after, rollback)
    elif release is not None and after.run != before.run and after.run:
        again = before.release is not None and before.release.digest == release.digest
        what = f"{release.version} again" if again else release.version
        yield Reason.RUN_STARTED, f"Run {after.run} began: {what}.", False
    if release is not None:
        known = {ring.name: ring for ring in before.rings}
        for ring in after.rings:
            was = known.get(ring.name, RingStatus(name=ring.name))
            step = _ring_step(was, ring, release.version, after.run != before.run)
            if step is not None:
                yield step
    over = after.phase is Phase.ROLLED_BACK and before.phase is not Phase.ROLLED_BACK
    if rollback is not None and over:
        yield Reason.ROLLED_BACK, _ended(rollback), False


def _ring_step(was: RingStatus, ring: RingStatus, version: str, another_run: bool) -> Step | None:
    turned = another_run or ring.phase is not was.phase
    share = f"{ring.updated} of {ring.devices} devices run it" if ring.devices else ""
    match ring.phase:
        case RingPhase.OPEN if another_run or was.opened_at is None:
            return Reason.RING_OPENED, f"{version}: ring {ring.name} is open.", False
        case RingPhase.SOAKING if ring.satisfied_at != was.satisfied_at:
            return Reason.RING_SOAKING, f"{version}: ring {ring.name} succeeds and soaks.", False
        case RingPhase.COMPLETE if ring.completed_at != was.completed_at:
            how = f"; {share}" if share else ""
            return Reason.RING_COMPLETED, f"{version}: ring {ring.name} is complete{how}.", False
        case RingPhase.SKIPPED if turned:
            return Reason.RING_SKIPPED, f"{version}: ring {ring.name} has no devices.", False
        case RingPhase.FAILED if turned:
            how = f": {ring.failed} of {ring.devices} devices" if ring.devices else ""
            return Reason.RING_FAILED, f"{version}: ring {ring.name} failed{how}.", True
    return None


def _rollback_started(status: RolloutStatus, rollback: RollbackStatus) -> Step:
    failed = rollback.cause is RollbackCause.FAILURE
    latest = status.history[0].message if status.history else ""
    why = f" ({latest})" if failed and latest else ""
    return (
        Reason.ROLLBACK_STARTED,
        f"Devices that have {rollback.from_} get {rollback.to} instead{why}.",
        failed,
    )


def _ended(rollback: RollbackStatus) -> str:
    text = f"{rollback.from_} was taken back to {rollback.to}"
    if rollback.devices is None:
        return f"{text}; how many devices came back is not known."
    text += f": {rollback.restored or 0} of {rollback.devices} devices came back"
    if rollback.unconfirmed:
        text += f", {rollback.unconfirmed} unconfirmed"
    return f"{text}."
