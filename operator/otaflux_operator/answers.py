"""Asks the servers how far they are, beside the reconciliation and never in its way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import random

from otaflux_operator import metrics
from otaflux_operator.engine import Answer
from otaflux_operator.ports import Key, Unavailable, UpdateServers
from otaflux_operator.queues import KeyedQueue, work
from otaflux_operator.timing import Clock, Timing, current
from otaflux_policy.served import ServedRollout

_GROWTH = 1.6
_NO_TIME = datetime.min.replace(tzinfo=UTC)
_CROWD = 10
"""Rollouts of which something may be expected at a time without being asked of less often."""


@dataclass(slots=True)
class _Asked:
    """`used`: the answer by which the rollout was looked at last."""

    answer: Answer = field(default_factory=Answer)
    used: Answer = field(default_factory=Answer)
    expecting: str | None = None
    judging: bool = False
    pause: float = 0.0


class Answers:
    """Holds the last answer per rollout; `news` is called with the key when it changed.

    Servers are asked often, and less and less so, while something is expected of them; steadily
    while a rollout is judged by their counts; else every `ask_steady` seconds. That the same was
    counted again is no news, until the counts that were used are `evidence_used` seconds old.
    """

    def __init__(
        self,
        servers: UpdateServers,
        news: Callable[[Key], None],
        timing: Timing,
        clock: Clock = current,
    ) -> None:
        self._servers = servers
        self._news = news
        self._timing = timing
        self._clock = clock
        self._asked: dict[Key, _Asked] = {}
        self._expecting: set[Key] = set()
        self._judging: set[Key] = set()
        self._queue: KeyedQueue[Key] = KeyedQueue()

    def answer(self, key: Key) -> Answer:
        """What the servers said last; they are asked now where they never were."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked()
            self._queue.put(key)
        asked.used = asked.answer
        return asked.answer

    def expect(self, key: Key, what: str | None, *, judging: bool = False) -> None:
        """Something is expected of the servers: `what` names it (None: nothing is).

        `judging`: the rollout is judged by their counts.
        """
        asked = self._asked.setdefault(key, _Asked())
        (self._expecting.discard if what is None else self._expecting.add)(key)
        (self._judging.add if judging else self._judging.discard)(key)
        if judging and not asked.judging:
            self._queue.put(key, self._judging_pause())
        asked.judging = judging
        if what is None or what == asked.expecting:
            asked.expecting = what
            return
        asked.expecting, asked.pause = what, self._timing.ask_first
        self._queue.put(key, self._spread(asked.pause))

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._asked.pop(key, None)
        self._expecting.discard(key)
        self._judging.discard(key)
        self._queue.drop(key)

    async def run(self) -> None:
        """Works until cancelled."""
        await work(self._queue, self._ask, self._timing.ask_workers)

    async def _ask(self, key: Key) -> None:
        asked = self._asked.get(key)
        if asked is None:
            return
        before = asked.answer
        try:
            said = await self._servers.served(key.namespace, key.name)
        except Unavailable as error:
            metrics.SERVER_ERRORS.inc()
            asked.answer = Answer(before.said, before.at, str(error))
        else:
            asked.answer = Answer(said, self._clock())
        if self._asked.get(key) is not asked:
            return
        self._queue.put(key, self._pause(asked))
        if self._matters(asked):
            self._news(key)

    def _matters(self, asked: _Asked) -> bool:
        """Whether the last answer says anything beyond the one that was used."""
        answer, used = asked.answer, asked.used
        if answer.problem != used.problem or _without_time(answer) != _without_time(used):
            return True
        counted, before = _counted_at(answer), _counted_at(used)
        if not asked.judging or counted is None or before is None:
            return False
        return abs(counted - before) >= timedelta(seconds=self._timing.evidence_used)

    def _pause(self, asked: _Asked) -> float:
        if asked.expecting is None:
            if asked.judging:
                return self._judging_pause()
            return self._timing.ask_steady * (0.9 + random() / 10)
        pause = asked.pause
        asked.pause = min(self._timing.ask_most, pause * _GROWTH)
        return self._spread(pause)

    def _judging_pause(self) -> float:
        least = len(self._judging) / self._timing.evidence_rate
        return max(self._timing.ask_evidence, least) * (0.9 + random() / 10)

    def _spread(self, pause: float) -> float:
        """Longer where much is expected: the questions must not outweigh the work."""
        return pause * max(1.0, len(self._expecting) / _CROWD)


def _without_time(answer: Answer) -> ServedRollout | None:
    """What was said, whenever it was counted."""
    said = answer.said
    if said is None or said.counts is None:
        return said
    return said.model_copy(update={"counts": said.counts.model_copy(update={"at": _NO_TIME})})


def _counted_at(answer: Answer) -> datetime | None:
    counts = answer.said.counts if answer.said is not None else None
    return counts.at if counts is not None else None
