"""Device groups: published one by one, checked against each other per namespace."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from structlog import get_logger

from otaflux_operator import metrics
from otaflux_operator.conditions import Verdict, conditions
from otaflux_operator.conflicts import label_conflicts
from otaflux_operator.engine.policies import is_same, seal
from otaflux_operator.epochs import Epochs
from otaflux_operator.ports import Conflict, Key, Kind, Malformed, Ports
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import ConditionType, DeviceGroup, GroupStatus
from otaflux_operator.telling import notices, tampering
from otaflux_operator.timing import Clock, current
from otaflux_policy import canonical
from otaflux_policy.contract import POLICY_LIMIT
from otaflux_policy.groups import Group

log = get_logger(__name__)


class Groups:
    """Reconciles groups. `check(namespace)` asks for another `compare` of a namespace."""

    def __init__(
        self,
        ports: Ports,
        check: Callable[[str], None],
        epochs: Epochs,
        clock: Clock = current,
    ) -> None:
        self._ports = ports
        self._check = check
        self._epochs = epochs
        self._clock = clock
        self._published: dict[Key, tuple[int, Verdict]] = {}
        """What became of which generation."""

    async def reconcile(self, key: Key) -> None:
        """Publishes one group, or withdraws it. Raises Conflict and Unavailable."""
        try:
            group, published = await asyncio.gather(
                self._ports.resources.group(key.namespace, key.name),
                self._ports.publications.group(key.namespace, key.name),
            )
        except Malformed as problem:
            await self._refuse(key, problem)
            return
        if group is None:
            self._published.pop(key, None)
            if await self._ports.publications.withdraw(key):
                metrics.POLICY_WRITES.labels(key.kind, "withdrawn").inc()
            self._check(key.namespace)
            return
        before = published.content if published is not None else None
        content = seal(_content(group), before, self._epochs.current, self._clock())
        if why := self._ports.publications.problem:
            ready = Verdict(
                ConditionType.READY,
                False,
                Reason.SIGNING_KEY_UNUSABLE,
                f"Nothing can be published: {why}. What is published stays as it is.",
            )
        elif len(canonical.dumps(content).encode()) > POLICY_LIMIT:
            ready = Verdict(
                ConditionType.READY,
                False,
                Reason.POLICY_TOO_LARGE,
                "The group does not fit into a ConfigMap: divide it. What is published stays.",
            )
        else:
            uid = group.metadata.uid
            same = published is not None and before is not None and is_same(content, before)
            if published is None or not same or published.owner != uid or published.damaged:
                await self._ports.publications.publish(
                    key,
                    content,
                    owner=uid,
                    version=published.version if published is not None else None,
                )
                what = published.tampered if published is not None else ""
                if published is None and key in self._published:
                    what = "it was deleted"
                metrics.POLICY_WRITES.labels(key.kind, "restored" if what else "published").inc()
                if what:
                    await self._ports.notices.post(tampering(key, uid, what, self._clock()))
            ready = Verdict(ConditionType.READY, True, Reason.PUBLISHED, "The group is published.")
        self._published[key] = group.metadata.generation, ready
        self._check(key.namespace)

    async def compare(self, namespace: str) -> None:
        """Writes the status of the groups of a namespace. Raises Conflict and Unavailable."""
        groups = await self._ports.resources.groups(namespace)
        # Thousands of globs against thousands of names take a while: not in the event loop.
        found = await asyncio.to_thread(label_conflicts, [_content(group) for group in groups])
        conflict = None
        for group in groups:
            try:
                await self._write(group, found.get(group.metadata.name, ""))
            except Conflict as error:
                conflict = error
        if conflict is not None:
            raise conflict

    async def _write(self, group: DeviceGroup, conflict: str) -> None:
        key = Key(Kind.GROUP, group.metadata.namespace, group.metadata.name)
        published, ready = self._published.get(key, (None, None))
        if ready is None or published != group.metadata.generation:
            return  # its own reconciliation asks for another comparison
        differing = (
            Verdict(ConditionType.LABEL_CONFLICT, True, Reason.LABEL_CONFLICT, conflict)
            if conflict
            else Verdict(
                ConditionType.LABEL_CONFLICT, False, Reason.NO_CONFLICT, "No group contradicts."
            )
        )
        now = datetime.now(UTC)
        generation, before = group.metadata.generation, group.status
        status = GroupStatus(
            observed_generation=generation,
            conditions=conditions(
                before.conditions, (ready, differing), generation, now.replace(microsecond=0)
            ),
        )
        if status == before:
            return
        await self._ports.resources.write_status(key, status, group.metadata.resource_version)
        metrics.STATUS_WRITES.labels(key.kind).inc()
        for notice in notices(key, group.metadata.uid, before.conditions, status.conditions, now):
            if notice.warning:
                await self._ports.notices.post(notice)

    async def _refuse(self, key: Key, problem: Malformed) -> None:
        before = problem.status
        if not isinstance(before, GroupStatus):
            log.error("neither spec nor status can be read", object=str(key), why=str(problem))
            return
        verdict = Verdict(ConditionType.READY, False, Reason.INVALID_SPEC, str(problem))
        now = datetime.now(UTC)
        status = GroupStatus(
            observed_generation=problem.generation,
            conditions=conditions(
                before.conditions, (verdict,), problem.generation, now.replace(microsecond=0)
            ),
        )
        if status == before:
            return
        await self._ports.resources.write_status(key, status, problem.version)
        for notice in notices(key, problem.uid, before.conditions, status.conditions, now):
            await self._ports.notices.post(notice)


def _content(group: DeviceGroup) -> Group:
    return Group(
        namespace=group.metadata.namespace,
        name=group.metadata.name,
        names=group.spec.names,
        labels=dict(group.spec.labels),
        model=group.spec.model,
    )
