"""The policies and groups in use, per namespace; where they come from is a `PolicySource`."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from otaflux_policy.canonical import InvalidPolicy, loads_group, loads_policy
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import precedence
from otaflux_policy.groups import Group, Groups
from otaflux_server.metrics import Metrics
from otaflux_server.policy_files import Key, Kind, PolicyFiles, is_object_name

log = structlog.get_logger(__name__)

_REMEMBERED_RUNS = 10_000
_MAX_WHY = 500
Item = TypeVar("Item")


class PolicySource(Protocol):
    """Where policies come from: a cluster, or the process itself (standalone)."""

    async def run(self, store: "PolicyStore") -> None:
        """Feeds the store until cancelled; deals with all its failures itself."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over the devices of one namespace; `generation` differs after each change.

    `held`: nothing may be offered, because something that was published here could never be read,
    and so nobody knows whom it would have kept back; or because nothing was read at all yet.
    """

    generation: int
    policies: tuple[Policy, ...]
    groups: Groups
    held: bool = False


class PolicyStore:
    """Policies and groups in use. Synchronous: what is applied is in use when the call returns.

    What is not valid is refused with a reason, and the last good one stays in use. Not
    thread-safe: everything runs on the server's event loop.
    """

    def __init__(self, metrics: Metrics, files: PolicyFiles | None = None) -> None:
        self._metrics = metrics
        self._files = files
        self._policies: dict[str, dict[str, Policy]] = {}
        self._groups: dict[str, dict[str, Group]] = {}
        self._rejected: dict[tuple[Kind, Key], str] = {}
        self._unread: frozenset[str] = frozenset()
        self._runs: dict[Key, int] = {}
        self._generation = 0
        self._rules: dict[str, Rules] = {}
        self._indexes: dict[str, Groups] = {}
        self._watchers: list[Callable[[], None]] = []
        self._batching = False
        self._changed = False
        self._state_changed = False
        self._loaded = False
        self._synced = False
        self._ever_synced = False
        self._disconnected = "no policy source was read yet"

    def load(self) -> None:
        """Takes up what earlier runs saved; each is validated as if it were published now."""
        if self._files is None:
            return
        saved = self._files.load()
        self._runs = saved.runs
        self._ever_synced = saved.synced
        with _Batch(self):
            for key, text in saved.policies.items():
                self.apply_policy(*key, text)
            for key, text in saved.groups.items():
                self.apply_group(*key, text)
        self._loaded = saved.synced or any(self._policies.values())
        self._rules.clear()
        log.info("last known policies loaded", policies=len(self.policies()), ready=self.ready)

    # What is asked

    def rules(self, namespace: str) -> Rules:
        """What decides over this namespace's devices."""
        rules = self._rules.get(namespace)
        if rules is None:
            known = namespace in self._policies or namespace in self._groups
            if not known and namespace not in self._unread:
                return _NO_RULES if self.ready else _NOTHING_READ
            policies = sorted(self._policies.get(namespace, {}).values(), key=precedence)
            # Not with every change of a policy: it may be an index of very many devices.
            groups = self._indexes.get(namespace)
            if groups is None:
                groups = Groups(self._groups.get(namespace, {}).values())
                self._indexes[namespace] = groups
            self._generation += 1
            held = not self.ready or namespace in self._unread
            rules = Rules(self._generation, tuple(policies), groups, held)
            self._rules[namespace] = rules
        return rules

    def policies(self) -> list[Policy]:
        """All policies in use, by namespace and name."""
        return [
            policies[name]
            for _, policies in sorted(self._policies.items())
            for name in sorted(policies)
        ]

    def policy(self, namespace: str, name: str) -> Policy | None:
        """The policy in use for the rollout."""
        return self._policies.get(namespace, {}).get(name)

    def rejected(self, namespace: str, name: str) -> str:
        """Why the published policy is not in use; empty where it is."""
        return self._rejected.get(("policies", (namespace, name)), "")

    def rejections(self) -> Mapping[tuple[Kind, Key], str]:
        """All that is refused now, and why."""
        return self._rejected

    def run(self, namespace: str, name: str) -> int:
        """The highest run known for the rollout's name, also of one that is gone; 0: none."""
        return self._runs.get((namespace, name), 0)

    @property
    def ready(self) -> bool:
        """Whether polls can be answered: a source was read, or its last state was on disk."""
        return self._synced or self._loaded

    @property
    def disconnection(self) -> str:
        """Why the last known policies are served instead of current ones; empty: they are not."""
        return self._disconnected

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called after each change, within the call that made it."""
        self._watchers.append(watcher)

    # What a source tells

    def apply_policy(self, namespace: str, name: str, text: str) -> bool:
        """Takes the canonical text of a policy into use; False: refused (see `rejected`)."""
        key = (namespace, name)
        current = self.policy(namespace, name)
        try:
            if not (is_object_name(namespace) and is_object_name(name)):
                raise InvalidPolicy("the rollout's namespace or name is not that of an object")
            policy = loads_policy(text, namespace=namespace, name=name)
            _check_sequence(policy, current)
        except InvalidPolicy as error:
            return self._reject("policies", key, str(error))
        self._accept("policies", key)
        if current is not None and current.revision == policy.revision:
            return True
        self._policies.setdefault(namespace, {})[name] = policy
        self._remember_run(key, policy.run)
        if self._files is not None:
            self._files.save("policies", key, text)
        log.info("policy in use", namespace=namespace, rollout=name, revision=policy.revision)
        self._change(namespace)
        return True

    def apply_group(self, namespace: str, name: str, text: str) -> bool:
        """As `apply_policy`, for a device group."""
        key = (namespace, name)
        try:
            if not (is_object_name(namespace) and is_object_name(name)):
                raise InvalidPolicy("the group's namespace or name is not that of an object")
            group = loads_group(text, namespace=namespace, name=name)
        except InvalidPolicy as error:
            return self._reject("groups", key, str(error))
        self._accept("groups", key)
        current = self._groups.get(namespace, {}).get(name)
        if current is not None and current.revision == group.revision:
            return True
        self._groups.setdefault(namespace, {})[name] = group
        self._indexes.pop(namespace, None)
        if self._files is not None:
            self._files.save("groups", key, text)
        log.info("device group in use", namespace=namespace, group=name, revision=group.revision)
        self._change(namespace)
        return True

    def reject_policy(self, namespace: str, name: str, why: str) -> None:
        """Notes that what is published for the rollout is no policy at all."""
        self._reject("policies", (namespace, name), why)

    def reject_group(self, namespace: str, name: str, why: str) -> None:
        """Notes that what is published for the group is no group at all."""
        self._reject("groups", (namespace, name), why)

    def remove_policy(self, namespace: str, name: str) -> None:
        """The rollout is gone: its devices are no longer offered anything by it."""
        self._remove("policies", self._policies, namespace, name)

    def remove_group(self, namespace: str, name: str) -> None:
        """The device group is gone."""
        self._remove("groups", self._groups, namespace, name)

    def replace(
        self,
        policies: Mapping[Key, str],
        groups: Mapping[Key, str],
        namespaces: Collection[str] | None = None,
        *,
        unusable: Collection[tuple[Kind, Key]] = (),
    ) -> None:
        """Takes a complete list into use: all others of `namespaces` (None: of all) are removed.

        `unusable` are objects that exist but hold nothing to read: their last good stays.
        """
        kept = {("policies", key) for key in policies} | {("groups", key) for key in groups}
        kept |= set(unusable)
        with _Batch(self):
            # Groups first: a policy must not meet devices whose labels are still missing.
            for key, text in groups.items():
                self.apply_group(*key, text)
            for key, text in policies.items():
                self.apply_policy(*key, text)
            for key in self._known("policies", namespaces):
                if ("policies", key) not in kept:
                    self.remove_policy(*key)
            for key in self._known("groups", namespaces):
                if ("groups", key) not in kept:
                    self.remove_group(*key)

    def keep_only(self, namespaces: Collection[str]) -> None:
        """Removes what is in use of all other namespaces: no source tells of them any more."""
        known = {*self._policies, *self._groups, *(key[0] for _, key in self._rejected)}
        self.replace({}, {}, namespaces=known.difference(namespaces))

    def connected(self) -> None:
        """The source has given all it has and follows it from now on."""
        if not self.ready:
            self._rules.clear()
        if self._disconnected:
            log.info("policies are current")
        self._disconnected = ""
        self._synced = True
        self._metrics.source_connected.set(1)
        self._metrics.source_synced.set_to_current_time()
        if not self._ever_synced:
            self._ever_synced = True
            self._save_state()

    def disconnected(self, why: str) -> None:
        """The source is lost: what is known is served on."""
        if self._disconnected != why:
            log.warning("serving the last known policies", reason=why)
        self._disconnected = why
        self._metrics.source_connected.set(0)

    # Inside

    def _known(self, kind: Kind, namespaces: Collection[str] | None) -> Iterable[Key]:
        found = self._in_use(kind)
        keys = {(namespace, name) for namespace, names in found.items() for name in names}
        keys |= {key for rejected, key in self._rejected if rejected == kind}
        return [key for key in keys if namespaces is None or key[0] in namespaces]

    def _reject(self, kind: Kind, key: Key, why: str) -> bool:
        why = why[:_MAX_WHY]  # it may quote a name of any length
        if self._rejected.get((kind, key)) != why:
            log.error("published object refused", kind=kind, namespace=key[0], name=key[1], why=why)
            self._metrics.policies_rejected.labels(kind).inc()
        self._rejected[kind, key] = why
        self._count_rejected()
        return False

    def _accept(self, kind: Kind, key: Key) -> None:
        if self._rejected.pop((kind, key), None) is not None:
            self._count_rejected()

    def _count_rejected(self) -> None:
        self._metrics.rejected.set(len(self._rejected))
        unread = frozenset(
            namespace
            for kind, (namespace, name) in self._rejected
            if name not in self._in_use(kind).get(namespace, {})
        )
        for namespace in unread ^ self._unread:
            self._rules.pop(namespace, None)
        for namespace in unread - self._unread:
            log.error("nothing is offered in the namespace until all can be read", name=namespace)
        self._unread = unread

    def _in_use(self, kind: Kind) -> Mapping[str, Mapping[str, object]]:
        return self._policies if kind == "policies" else self._groups

    def _remove(
        self, kind: Kind, found: dict[str, dict[str, Item]], namespace: str, name: str
    ) -> None:
        self._accept(kind, (namespace, name))
        if name not in found.get(namespace, {}):
            return
        del found[namespace][name]
        if not found[namespace]:
            del found[namespace]
        if kind == "groups":
            self._indexes.pop(namespace, None)
        if self._files is not None:
            self._files.remove(kind, (namespace, name))
        log.info("object gone", kind=kind, namespace=namespace, name=name)
        self._change(namespace)

    def _remember_run(self, key: Key, run: int) -> None:
        if run <= self._runs.get(key, 0):
            return
        self._runs.pop(key, None)
        self._runs[key] = run
        if len(self._runs) > _REMEMBERED_RUNS:
            gone = (old for old in self._runs if self.policy(*old) is None and old != key)
            oldest = next(gone, None)
            if oldest is not None:
                del self._runs[oldest]
        self._save_state()

    def _save_state(self) -> None:
        self._state_changed = self._batching
        if self._files is not None and not self._batching:
            self._files.save_state(self._runs, self._ever_synced)

    def _change(self, namespace: str) -> None:
        self._rules.pop(namespace, None)
        self._changed = True
        if not self._batching:
            self._announce()

    def _announce(self) -> None:
        if not self._changed:
            return
        self._changed = False
        self._metrics.policies.set(sum(len(names) for names in self._policies.values()))
        self._metrics.policy_changed.set(time.time())
        for watcher in self._watchers:
            watcher()


class _Batch:
    """Many changes, announced once."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store._batching = True

    def __exit__(self, *_: object) -> None:
        self._store._batching = False
        if self._store._state_changed:
            self._store._save_state()
        self._store._announce()


_NO_RULES = Rules(0, (), Groups())
_NOTHING_READ = Rules(-1, (), Groups(), held=True)


def _check_sequence(policy: Policy, current: Policy | None) -> None:
    """A replayed older policy is refused; a re-created rollout counts anew."""
    if current is None or policy.created_at > current.created_at:
        return
    if (policy.epoch, policy.sequence) < (current.epoch, current.sequence):
        raise InvalidPolicy(
            f"the policy is older (epoch {policy.epoch}, sequence {policy.sequence}) than the one "
            f"in use (epoch {current.epoch}, sequence {current.sequence})"
        )
