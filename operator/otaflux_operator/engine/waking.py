"""When a rollout has to be looked at again by time alone."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from otaflux_operator.engine.deadlines import deadline
from otaflux_operator.engine.judgements import Finding
from otaflux_operator.engine.observations import FRESH, SKEW
from otaflux_operator.engine.rings import soaks_until
from otaflux_operator.engine.rollbacks import moves_at
from otaflux_operator.engine.situations import Situation
from otaflux_operator.engine.support import windows
from otaflux_policy.contract import State
from otaflux_policy.windows import next_change

_SECOND = timedelta(seconds=1)


def wake_at(situation: Situation, now: datetime) -> datetime | None:
    """The first instant after `now` at which time alone may change the outcome; None: none.

    Looks judge by whole seconds, so what ends within one is over at the next.
    """
    instants = (_whole(instant) for instant in _instants(situation))
    return min((instant for instant in instants if instant > now), default=None)


def _whole(instant: datetime) -> datetime:
    whole = instant.replace(microsecond=0)
    return whole if whole == instant else whole + _SECOND


def _instants(situation: Situation) -> Iterator[datetime]:
    draft, rollout, observation = situation.draft, situation.rollout, situation.observation
    answer = observation.answer
    told = [answer.at] if answer.said is not None and answer.at is not None else []
    if answer.said is not None and answer.said.counts is not None and draft.release is not None:
        told.append(answer.said.counts.at)
    for at in told:
        yield at - SKEW
        yield at + FRESH + _SECOND
    if (moves := moves_at(draft, rollout)) is not None:
        yield moves
    if not situation.is_live:
        return
    if (change := next_change(windows(rollout.spec) or (), situation.now)) is not None:
        yield change
    for ring in rollout.spec.rings:
        status = draft.rings.get(ring.name)
        if status is None:
            continue
        judgement = draft.judgements.get(ring.name)
        soaked = soaks_until(ring, status)
        if soaked is not None and judgement is not None and judgement.finding is Finding.MET:
            yield soaked
        if rollout.spec.state is not State.PAUSED:
            ends = deadline(rollout, ring, status)
            if ends is not None:
                yield ends
