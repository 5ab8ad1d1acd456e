"""One look at one rollout: observe, advance, publish, write the status, tell."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from structlog import get_logger

from otaflux_operator import metrics
from otaflux_operator.answers import Answers
from otaflux_operator.conditions import Verdict, conditions
from otaflux_operator.engine import Observation, Outcome, Waiting, advance
from otaflux_operator.epochs import Epochs
from otaflux_operator.ports import Key, Malformed, Ports, Published
from otaflux_operator.reasons import Reason
from otaflux_operator.resolving import Resolver
from otaflux_operator.resources import (
    ConditionType,
    FirmwareRollout,
    Phase,
    RolloutStatus,
)
from otaflux_operator.telling import happenings, notices, tampering
from otaflux_operator.timing import Clock, Timing, current
from otaflux_policy.contract import Policy
from otaflux_policy.rejections import RejectionReason
from otaflux_policy.served import ServedRollout

log = get_logger(__name__)


class Rollouts:
    """Reconciles rollouts. `again(key, seconds)` asks for another look at one."""

    def __init__(
        self,
        ports: Ports,
        resolver: Resolver,
        answers: Answers,
        again: Callable[[Key, float], None],
        timing: Timing,
        epochs: Epochs,
        clock: Clock = current,
    ) -> None:
        self._ports = ports
        self._resolver = resolver
        self._answers = answers
        self._again = again
        self._timing = timing
        self._epochs = epochs
        self._clock = clock
        self._written: dict[Key, float] = {}
        self._published: dict[Key, float] = {}

    async def reconcile(self, key: Key) -> None:
        """Brings one rollout as far as it goes now.

        Raises:
            Conflict: something changed meanwhile: look again.
            Unavailable: look again later.
        """
        try:
            rollout, published = await asyncio.gather(
                self._ports.resources.rollout(key.namespace, key.name),
                self._ports.publications.policy(key.namespace, key.name),
            )
        except Malformed as problem:
            await self._refuse(key, problem)
            return
        if rollout is None:
            await self._withdraw(key)
            return
        now = self._clock()
        observation = self._observe(key, rollout, published, now)
        outcome = advance(rollout, observation, now, epoch=self._epochs.current)
        if outcome.policy is not None:
            await self._ports.publications.publish(
                key,
                outcome.policy,
                owner=rollout.metadata.uid,
                version=published.version if published is not None else None,
            )
            self._published[key] = asyncio.get_running_loop().time()
            await self._tell_tampering(key, rollout, published, now)
        judging = Waiting.EVIDENCE in outcome.waiting
        self._answers.expect(key, _expectation(outcome), judging=judging)
        if outcome.wake_at is not None:
            self._again(key, max(0.0, (outcome.wake_at - now).total_seconds()))
        await self._write(key, rollout, outcome.status, now)

    def _observe(
        self,
        key: Key,
        rollout: FirmwareRollout,
        published: Published[Policy] | None,
        now: datetime,
    ) -> Observation:
        answer = self._answers.answer(key)
        content = published.content if published is not None else None
        damaged = published is not None and published.damaged
        refused = content is not None and self._is_refused(key, content, answer.fresh(now))
        return Observation(
            resolution=self._resolver.resolution(key, rollout),
            published=content,
            mine=published is not None and published.owner == rollout.metadata.uid,
            damaged=damaged or refused,
            unpublishable=self._ports.publications.problem,
            answer=answer,
        )

    def _is_refused(self, key: Key, published: Policy, said: ServedRollout | None) -> bool:
        """Whether servers know a later policy than is published, so that ours has to be above."""
        if said is None or said.rejection is not RejectionReason.REPLAYED:
            return False
        if said.revision == published.revision:
            return False
        loop_time = asyncio.get_running_loop().time()
        wait = self._published.get(key, float("-inf")) + self._timing.heal_after - loop_time
        if wait > 0:
            self._again(key, wait)
            return False
        if max(said.epoch, published.epoch + 1) > self._epochs.current:
            self._epochs.raise_above(max(said.epoch, published.epoch))
        return True

    async def _tell_tampering(
        self,
        key: Key,
        rollout: FirmwareRollout,
        published: Published[Policy] | None,
        now: datetime,
    ) -> None:
        """The policy was written: says so where somebody else had changed it."""
        known = rollout.status.policy
        what = published.tampered if published is not None else ""
        if published is None and known is not None and known.revision:
            what = "it was deleted"
        metrics.POLICY_WRITES.labels(key.kind, "restored" if what else "published").inc()
        if what:
            await self._ports.notices.post(tampering(key, rollout.metadata.uid, what, now))

    async def _withdraw(self, key: Key) -> None:
        self._resolver.forget(key)
        self._answers.forget(key)
        self._written.pop(key, None)
        self._published.pop(key, None)
        if await self._ports.publications.withdraw(key):
            metrics.POLICY_WRITES.labels(key.kind, "withdrawn").inc()

    async def _write(
        self, key: Key, rollout: FirmwareRollout, status: RolloutStatus, now: datetime
    ) -> None:
        before = rollout.status
        if status == before:
            return
        loop_time = asyncio.get_running_loop().time()
        wait = self._written.get(key, float("-inf")) + self._timing.status_every - loop_time
        if wait > 0 and _essence(status) == _essence(before):
            self._again(key, wait)
            return
        await self._ports.resources.write_status(key, status, rollout.metadata.resource_version)
        self._written[key] = loop_time
        metrics.STATUS_WRITES.labels(key.kind).inc()
        for notice in happenings(key, rollout.metadata.uid, before, status, now):
            await self._ports.notices.post(notice)

    async def _refuse(self, key: Key, problem: Malformed) -> None:
        """The spec cannot be read: say so; what is published stays."""
        before = problem.status
        if not isinstance(before, RolloutStatus):
            log.error("neither spec nor status can be read", object=str(key), why=str(problem))
            return
        now = self._clock()
        verdicts = [
            Verdict(ConditionType.READY, False, Reason.INVALID_SPEC, str(problem)),
            Verdict(ConditionType.RECONCILING, False, Reason.SETTLED, "The spec cannot be read."),
            Verdict(ConditionType.STALLED, True, Reason.INVALID_SPEC, str(problem)),
        ]
        others = tuple(
            condition
            for condition in before.conditions
            if condition.type not in {verdict.type for verdict in verdicts}
        )
        known = conditions(
            before.conditions, verdicts, problem.generation, now.replace(microsecond=0)
        )
        ended = before.phase in (Phase.ABORTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        status = before.model_copy(
            update={
                "observed_generation": problem.generation,
                "phase": before.phase if ended else Phase.STALLED,
                "message": f"The spec cannot be read: {problem}"[:1024],
                "conditions": known + others,
            }
        )
        if status == before:
            return
        await self._ports.resources.write_status(key, status, problem.version)
        for notice in notices(key, problem.uid, before.conditions, status.conditions, now):
            await self._ports.notices.post(notice)


def _expectation(outcome: Outcome) -> str | None:
    """What servers are to be asked often for, as long as it stays the same."""
    if Waiting.SERVERS not in outcome.waiting:
        return None
    status = outcome.status
    revision = status.policy.revision if status.policy is not None else ""
    return f"{revision} {status.candidate.digest if status.candidate is not None else ''}"


def _essence(status: RolloutStatus) -> object:
    """What is written at once when it changes."""
    return (
        status.phase,
        status.observed_generation,
        status.run,
        status.handled_retry_token,
        status.candidate.digest if status.candidate is not None else None,
        [(ring.name, ring.phase) for ring in status.rings],
        status.trip is not None,
        [(entry.run, entry.result) for entry in status.history],
        {(known.type, known.status, known.reason) for known in status.conditions},
    )
