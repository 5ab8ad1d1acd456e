"""Asks the servers how far they are, beside the reconciliation and never in its way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import random

from otaflux_operator import metrics
from otaflux_operator.engine import Answer
from otaflux_operator.ports import Key, Unavailable, UpdateServers
from otaflux_operator.queues import KeyedQueue, work
from otaflux_operator.timing import Timing

_GROWTH = 1.6
_CROWD = 10
"""Rollouts of which something may be expected at a time without being asked of less often."""


@dataclass(slots=True)
class _Asked:
    answer: Answer = field(default_factory=Answer)
    expecting: str | None = None
    pause: float = 0.0


class Answers:
    """Holds the last answer per rollout; `news` is called with the key when it changed.

    Servers are asked often, and less and less so, while something is expected of them, else
    every `ask_steady` seconds.
    """

    def __init__(self, servers: UpdateServers, news: Callable[[Key], None], timing: Timing) -> None:
        self._servers = servers
        self._news = news
        self._timing = timing
        self._asked: dict[Key, _Asked] = {}
        self._expecting: set[Key] = set()
        self._queue: KeyedQueue[Key] = KeyedQueue()

    def answer(self, key: Key) -> Answer:
        """What the servers said last; they are asked now where they never were."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked()
            self._queue.put(key)
        return asked.answer

    def expect(self, key: Key, what: str | None) -> None:
        """Something is expected of the servers: `what` names it (None: nothing is)."""
        asked = self._asked.setdefault(key, _Asked())
        (self._expecting.discard if what is None else self._expecting.add)(key)
        if what is None or what == asked.expecting:
            asked.expecting = what
            return
        asked.expecting, asked.pause = what, self._timing.ask_first
        self._queue.put(key, self._spread(asked.pause))

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._asked.pop(key, None)
        self._expecting.discard(key)
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
            asked.answer = Answer(said, datetime.now(UTC))
        if self._asked.get(key) is not asked:
            return
        self._queue.put(key, self._pause(asked))
        if (asked.answer.said, asked.answer.problem) != (before.said, before.problem):
            self._news(key)

    def _pause(self, asked: _Asked) -> float:
        if asked.expecting is None:
            return self._timing.ask_steady * (0.9 + random() / 10)
        pause = asked.pause
        asked.pause = min(self._timing.ask_most, pause * _GROWTH)
        return self._spread(pause)

    def _spread(self, pause: float) -> float:
        """Longer where much is expected: the questions must not outweigh the work."""
        return pause * max(1.0, len(self._expecting) / _CROWD)
