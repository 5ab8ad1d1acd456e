"""The policies and groups in use, per namespace; where they come from is a `PolicySource`."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import structlog

from otaflux_policy.canonical import InvalidPolicy, loads_group, loads_policy
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import precedence
from otaflux_policy.groups import Group, Groups
from otaflux_policy.rejections import RejectionReason
from otaflux_policy.signing import PublicKey
from otaflux_server.metrics import Metrics
from otaflux_server.policy_files import Key, Kind, PolicyFiles, Saved, is_object_name
from otaflux_server.policy_keys import PolicyKeys, keys_of_texts
from otaflux_server.policy_marks import PolicyMarks, check_sequence
from otaflux_server.policy_rejections import PolicyRejections, Rejected
from otaflux_server.rules import NO_RULES, NOTHING_READ, Rules

log = structlog.get_logger(__name__)


class PolicySource(Protocol):
    """Where policies come from: a cluster, or the process itself (standalone)."""

    @property
    def keys(self) -> PolicyKeys | None:
        """By which of its keys policies are signed; None: they never leave this process."""

    async def run(self, store: "PolicyStore") -> None:
        """Feeds the store until cancelled; deals with all its failures itself."""


class PolicyStore:
    """Policies and groups in use. Synchronous: what is applied is in use when the call returns.

    What is not valid is refused with a reason, and the last good one stays in use. With `keys`
    that includes whatever is not signed by one of them, and whatever is not newer than all that
    was ever in use under its name; None: the policies never leave this process (standalone) and
    are not signed. Not thread-safe: everything runs on the server's event loop.
    """

    def __init__(
        self,
        metrics: Metrics,
        files: PolicyFiles | None = None,
        *,
        keys: PolicyKeys | None = None,
    ) -> None:
        self._metrics = metrics
        self._files = files
        self._keys = keys
        self._policies: dict[str, dict[str, Policy]] = {}
        self._groups: dict[str, dict[str, Group]] = {}
        self._marks = PolicyMarks(self._is_used, lambda: self.key_ids)
        self._rejections = PolicyRejections(metrics, self._is_used)
        self._generation = 0
        self._rules: dict[str, Rules] = {}
        self._indexes: dict[str, Groups] = {}
        self._watchers: list[Callable[[], None]] = []
        self._batching = False
        self._changed = False
        self._loaded = False
        self._synced = False
        self._settled = False
        self._disconnected = "no policy source was read yet"

    def load(self) -> None:
        """Takes up what earlier runs saved.

        Each is validated as if it were published now, but for its signature: it was in use, so it
        goes on also where its key is gone.
        """
        if self._files is None:
            return
        saved = self._files.load()
        self._marks.restore(saved)
        self._settled = saved.synced
        if self._keys is not None:
            self._keys.replace(
                keys_of_texts({str(i): key.encode() for i, key in enumerate(saved.keys)})
            )
        with _Batch(self):
            for key, text in saved.policies.items():
                self._apply("policies", key, text)
            for key, text in saved.groups.items():
                self._apply("groups", key, text)
        self._loaded = saved.synced or any(self._policies.values())
        self._rules.clear()
        log.info("last known policies loaded", policies=len(self.policies()), ready=self.ready)

    # What is asked

    def rules(self, namespace: str) -> Rules:
        """What decides over this namespace's devices."""
        rules = self._rules.get(namespace)
        if rules is None:
            known = namespace in self._policies or namespace in self._groups
            unread = namespace in self._rejections.held
            if not known and not unread:
                return NO_RULES if self._is_informed else NOTHING_READ
            policies = sorted(self._policies.get(namespace, {}).values(), key=precedence)
            # Not with every change of a policy: it may be an index of very many devices.
            groups = self._indexes.get(namespace)
            if groups is None:
                groups = Groups(self._groups.get(namespace, {}).values())
                self._indexes[namespace] = groups
            self._generation += 1
            held = not self._is_informed or unread
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

    def names(self, kind: Kind) -> list[Key]:
        """All policies or groups in use, by namespace and name."""
        return [(owner, name) for owner, names in self._in_use(kind).items() for name in names]

    def rejected(self, namespace: str, name: str) -> str:
        """Why the published policy is not in use; empty where it is."""
        found = self._rejections.of("policies", (namespace, name))
        return "" if found is None else found.why

    def rejection(self, namespace: str, name: str) -> RejectionReason | None:
        """The same in a word."""
        found = self._rejections.of("policies", (namespace, name))
        return None if found is None else found.reason

    def rejections(self) -> Mapping[tuple[Kind, Key], Rejected]:
        """All that is refused now, and why."""
        return self._rejections.all()

    def run(self, namespace: str, name: str) -> int:
        """The highest run known for the rollout's name, also of one that is gone; 0: none."""
        return self._marks.runs.get((namespace, name), 0)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys by which policies are taken as signed; none where they need not be."""
        return self._keys.ids if self._keys is not None else ()

    @property
    def epoch(self) -> int:
        """The highest of all that was in use, by the keys that count; 0: nothing is signed."""
        return self._marks.epoch

    @property
    def ready(self) -> bool:
        """Whether polls can be answered: a source was read, or its last state was on disk."""
        return self._synced or self._loaded

    @property
    def _is_informed(self) -> bool:
        """Whether a namespace of which nothing is known has nothing."""
        return self._settled or self._loaded

    @property
    def disconnection(self) -> str:
        """Why the last known policies are served instead of current ones; empty: they are not."""
        return self._disconnected

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called after each change, within the call that made it."""
        self._watchers.append(watcher)

    # What a source tells

    def trust(self, keys: Iterable[PublicKey]) -> bool:
        """From now on only what one of these has signed comes into use.

        True: they are others than before, so that the source has to give again what was refused.
        What is in use by a key that is gone stays until it is replaced. Only for a store of
        signed policies.
        """
        if self._keys is None:
            raise ValueError("the policies of this store are not signed")
        if not self._keys.replace(keys):
            return False
        log.info("keys of policies changed", keys=self._keys.ids)
        self._save_state()
        self._changed = True
        self._announce()
        return True

    def apply_policy(self, namespace: str, name: str, text: str, signature: str = "") -> bool:
        """Takes the canonical text of a policy into use; False: refused (see `rejected`)."""
        return self._apply("policies", (namespace, name), text, signature)

    def apply_group(self, namespace: str, name: str, text: str, signature: str = "") -> bool:
        """As `apply_policy`, for a device group."""
        return self._apply("groups", (namespace, name), text, signature)

    def reject_policy(self, namespace: str, name: str, why: str) -> None:
        """Notes that what is published for the rollout is no policy at all."""
        self._reject("policies", (namespace, name), InvalidPolicy(why), holds=self._keys is None)

    def reject_group(self, namespace: str, name: str, why: str) -> None:
        """Notes that what is published for the group is no group at all."""
        self._reject("groups", (namespace, name), InvalidPolicy(why), holds=self._keys is None)

    def remove_policy(self, namespace: str, name: str) -> None:
        """The rollout is gone: its devices are no longer offered anything by it."""
        self._remove("policies", (namespace, name))

    def remove_group(self, namespace: str, name: str) -> None:
        """The device group is gone."""
        self._remove("groups", (namespace, name))

    def replace(
        self,
        policies: Mapping[Key, str],
        groups: Mapping[Key, str],
        namespaces: Collection[str] | None = None,
        *,
        signatures: Mapping[tuple[Kind, Key], str] | None = None,
        unusable: Collection[tuple[Kind, Key]] = (),
    ) -> None:
        """Takes a complete list into use: all others of `namespaces` (None: of all) are removed.

        `unusable` are objects that exist but hold nothing to read: their last good stays.
        """
        signed = signatures or {}
        # Groups first: a policy must not meet devices whose labels are still missing.
        given: dict[Kind, Mapping[Key, str]] = {"groups": groups, "policies": policies}
        kept = {*unusable, *((kind, key) for kind, texts in given.items() for key in texts)}
        with _Batch(self):
            for kind, texts in given.items():
                for key, text in texts.items():
                    self._apply(kind, key, text, signed.get((kind, key), ""))
            for kind in reversed(given):
                for key in self._known(kind, namespaces):
                    if (kind, key) not in kept:
                        self._remove(kind, key)

    def keep_only(self, namespaces: Collection[str]) -> None:
        """Removes what is in use of all other namespaces: no source tells of them any more."""
        known = {*self._policies, *self._groups, *(key[0] for _, key in self.rejections())}
        self.replace({}, {}, namespaces=known.difference(namespaces))

    def connected(self) -> None:
        """The source has given all it has and follows it from now on."""
        if self._disconnected:
            log.info("policies are current")
        self._disconnected = ""
        self._synced = True
        self._metrics.source_connected.set(1)
        self._metrics.source_synced.set_to_current_time()
        if not self._settled and (self._keys is None or self._keys.ids):
            self._settled = True
            self._rules.clear()
            self._save_state()

    def disconnected(self, why: str) -> None:
        """The source is lost: what is known is served on."""
        if self._disconnected != why:
            log.warning("serving the last known policies", reason=why)
        self._disconnected = why
        self._metrics.source_connected.set(0)

    # Inside

    def _apply(self, kind: Kind, key: Key, text: str, signature: str | None = None) -> bool:
        """As `apply_policy`; the signature None: it was looked at in an earlier process."""
        current, signer = self._current(kind, key), ""
        try:
            if self._keys is not None and signature is not None:
                signer = self._keys.verify(Policy if kind == "policies" else Group, text, signature)
            load = loads_policy if kind == "policies" else loads_group
            item: Policy | Group = load(text, namespace=key[0], name=key[1])
            if not all(map(is_object_name, key)):
                raise InvalidPolicy("its namespace or name is not that of an object")
            if self._keys is None:
                check_sequence(item, current)
            elif signature is not None:
                self._marks.check(kind, key, item, current)
        except InvalidPolicy as error:
            # Whoever may write ConfigMaps can make whatever is not signed, and so holds nobody by
            # it: only what is signed, and of this very object, is `INVALID`.
            holds = self._keys is None or error.reason is RejectionReason.INVALID
            return self._reject(kind, key, error, holds=holds)
        self._recount(self._rejections.remove(kind, key))
        if current is not None and current.revision == item.revision:
            return True
        self._use(kind, key, item, signer)
        if self._files is not None:
            self._files.save(kind, key, text)
        log.info("in use now", kind=kind, namespace=key[0], name=key[1], revision=item.revision)
        self._change(key[0])
        return True

    def _use(self, kind: Kind, key: Key, item: Policy | Group, signer: str) -> None:
        namespace, name = key
        if isinstance(item, Policy):
            self._policies.setdefault(namespace, {})[name] = item
            self._marks.ran(key, item.run)
        else:
            self._groups.setdefault(namespace, {})[name] = item
            self._indexes.pop(namespace, None)
        if self._keys is not None:
            self._marks.wrote(kind, key, item, signer)
        self._save_state()

    def _known(self, kind: Kind, namespaces: Collection[str] | None) -> Iterable[Key]:
        keys = set(self.names(kind))
        keys |= {key for rejected, key in self.rejections() if rejected == kind}
        return [key for key in keys if namespaces is None or key[0] in namespaces]

    def _reject(self, kind: Kind, key: Key, error: InvalidPolicy, *, holds: bool) -> bool:
        self._recount(self._rejections.add(kind, key, str(error), error.reason, holds=holds))
        return False

    def _recount(self, namespaces: Collection[str]) -> None:
        for namespace in namespaces:
            self._rules.pop(namespace, None)

    def _in_use(self, kind: Kind) -> Mapping[str, Mapping[str, Policy | Group]]:
        return self._policies if kind == "policies" else self._groups

    def _current(self, kind: Kind, key: Key) -> Policy | Group | None:
        return self._in_use(kind).get(key[0], {}).get(key[1])

    def _is_used(self, kind: Kind, key: Key) -> bool:
        return self._current(kind, key) is not None

    def _remove(self, kind: Kind, key: Key) -> None:
        self._recount(self._rejections.remove(kind, key))
        if not self._is_used(kind, key):
            return
        namespace, name = key
        found = self._policies if kind == "policies" else self._groups
        del found[namespace][name]
        if not found[namespace]:
            del found[namespace]
        if kind == "groups":
            self._indexes.pop(namespace, None)
        if self._files is not None:
            self._files.remove(kind, key)
        log.info("object gone", kind=kind, namespace=namespace, name=name)
        self._change(namespace)

    def _save_state(self) -> None:
        if self._files is not None:
            self._files.save_state(self._state)

    def _state(self) -> bytes:
        marks = self._marks
        keys = self._keys.dumps() if self._keys is not None else []
        return Saved(
            runs=marks.runs,
            written=marks.written,
            forgotten=marks.forgotten,
            keys=keys,
            synced=self._settled,
        ).dumps()

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
        self._store._announce()
