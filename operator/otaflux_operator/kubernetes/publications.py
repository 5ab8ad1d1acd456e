"""Policies and groups in ConfigMaps, signed, by server-side apply with one field manager."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from otaflux_operator.epochs import Epochs
from otaflux_operator.kubernetes.apis import (
    APPLY_PATCH,
    MERGE_PATCH,
    METADATA_ONLY,
    Api,
    NotFound,
)
from otaflux_operator.ports import Key, Kind, Published
from otaflux_operator.resources import API_VERSION
from otaflux_operator.signing import Signing
from otaflux_policy import canonical
from otaflux_policy.canonical import InvalidPolicy, loads_group, loads_policy
from otaflux_policy.contract import (
    COMPONENT_LABEL,
    GROUP_COMPONENT,
    GROUP_KEY,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    POLICY_COMPONENT,
    POLICY_KEY,
    Policy,
    group_object_name,
    policy_object_name,
)
from otaflux_policy.groups import Group
from otaflux_policy.signing import GROUP_SIGNATURE_KEY, POLICY_SIGNATURE_KEY

Content = TypeVar("Content", Policy, Group)

COMPONENTS = {Kind.ROLLOUT: POLICY_COMPONENT, Kind.GROUP: GROUP_COMPONENT}
_DATA_KEYS = {Kind.ROLLOUT: POLICY_KEY, Kind.GROUP: GROUP_KEY}
_SIGNATURE_KEYS = {Kind.ROLLOUT: POLICY_SIGNATURE_KEY, Kind.GROUP: GROUP_SIGNATURE_KEY}
_OBJECT_NAMES = {Kind.ROLLOUT: policy_object_name, Kind.GROUP: group_object_name}
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY},{COMPONENT_LABEL}"


class KubernetesPublications:
    """`ports.Publications` in the given namespaces (none: in all).

    What is there counts only where it is signed by one of the keys of `signing`, and not older than
    what this process read or wrote there.
    """

    def __init__(
        self, api: Api, namespaces: Sequence[str], signing: Signing, epochs: Epochs
    ) -> None:
        self._api = api
        self._namespaces = namespaces
        self._signing = signing
        self._epochs = epochs
        self._newest: dict[Key, Policy | Group] = {}
        self._owners: dict[Key, str] = {}
        self._bound: set[Key] = set()
        self._searched = False

    @property
    def problem(self) -> str:
        """See `ports.Publications`."""
        return self._signing.problem

    async def policy(self, namespace: str, name: str) -> Published[Policy] | None:
        """See `ports.Publications`."""
        return await self._read(Key(Kind.ROLLOUT, namespace, name), Policy)

    async def group(self, namespace: str, name: str) -> Published[Group] | None:
        """See `ports.Publications`."""
        return await self._read(Key(Kind.GROUP, namespace, name), Group)

    async def highest_epoch(self) -> int:
        """That of all that is published and signed; 0: there is none."""
        highest = 0
        async for item in self._list("application/json", SELECTOR):
            if (key := key_of(item)) is not None:
                content = self._content(item, key)[0]
                highest = max(highest, content.epoch if content is not None else 0)
        return highest

    async def keys(self) -> set[Key]:
        """See `ports.Publications`."""
        if self._searched:
            listed = self._list(METADATA_ONLY, SELECTOR)
            return {key async for item in listed if (key := key_of(item)) is not None}
        # Once by name: while no operator ran, somebody may have taken the labels off.
        listed = self._list(METADATA_ONLY, "")
        found = {key async for item in listed if (key := _named(item)) is not None}
        self._searched = True
        return found

    async def entries(self) -> set[str]:
        """See `ports.Publications`."""
        selector = f"{MANAGED_BY_LABEL}={MANAGED_BY},{COMPONENT_LABEL}={POLICY_COMPONENT}"
        contents = dict(self._newest)
        async for item in self._list("application/json", selector):
            key = key_of(item)
            content = self._content(item, key)[0] if key is not None else None
            if key is not None and content is not None:
                contents[key] = content
        # What somebody damaged is about to be written again as it was.
        policies = [content for content in contents.values() if isinstance(content, Policy)]
        artifacts = [release.firmware for policy in policies for release in policy.releases]
        return {a.credentials for a in artifacts if a.credentials is not None}

    async def publish(
        self, key: Key, content: Policy | Group, *, owner: str, version: str | None
    ) -> None:
        """See `ports.Publications`."""
        text = canonical.dumps(content)
        signature = self._signing.sign(type(content), text)
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": _OBJECT_NAMES[key.kind](key.name),
                "namespace": key.namespace,
                "labels": _labels(key),
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": key.kind,
                        "name": key.name,
                        "uid": owner,
                        "controller": True,
                    }
                ],
            },
            "data": {_DATA_KEYS[key.kind]: text, _SIGNATURE_KEYS[key.kind]: signature},
        }
        if key in self._bound:
            await self._unbind(key)
        elif version is not None:
            body["metadata"]["resourceVersion"] = version
        # By force: whoever else changed these fields is not their owner.
        await self._api.patch(_path(key), body, kind=APPLY_PATCH, force="true")
        self._newest[key], self._owners[key] = content, owner
        self._bound.discard(key)

    async def withdraw(self, key: Key) -> bool:
        """See `ports.Publications`. An object that merely has the name stays.

        One that we signed is ours, whatever somebody did to its labels and owners; so is what
        stands where we published: servers would go on by what they read there.
        """
        ours = key in self._newest
        self._forget(key)
        try:
            found = await self._api.get(_path(key))
            if not ours and key_of(found) != key and self._content(found, key)[0] is None:
                return False
            await self._delete(key, found)
        except NotFound:
            return False
        finally:
            self._forget(key)
        return True

    def _forget(self, key: Key) -> None:
        for known in (self._newest, self._owners):
            known.pop(key, None)
        self._bound.discard(key)

    async def _unbind(self, key: Key) -> None:
        """An object that somebody made unchangeable: makes it one that can be, or takes it away."""
        try:
            found = await self._unfinalized(key, await self._api.get(_path(key)))
            if found.get("immutable"):
                await self._delete(key, found)
        except NotFound:
            return

    async def _unfinalized(self, key: Key, found: dict[str, Any]) -> dict[str, Any]:
        """It without finalizers. Raises NotFound where that ended it."""
        if not found["metadata"].get("finalizers"):
            return found
        body = {"metadata": {"finalizers": None}}
        return await self._api.patch(_path(key), body, kind=MERGE_PATCH)

    async def _delete(self, key: Key, found: dict[str, Any]) -> None:
        metadata = (await self._unfinalized(key, found))["metadata"]
        await self._api.delete(_path(key), uid=metadata["uid"], version=metadata["resourceVersion"])

    async def _read(self, key: Key, kind: type[Content]) -> Published[Content] | None:
        try:
            found = await self._api.get(_path(key))
        except NotFound:
            return None
        content, problem, by_current_key = self._content(found, key)
        metadata = found["metadata"]
        (self._bound.add if _is_bound(found) else self._bound.discard)(key)
        owners = metadata.get("ownerReferences") or ()
        owner = next((known["uid"] for known in owners if known["kind"] == key.kind), "")
        tampered = problem or self._changed(found, key, owner, content)
        damaged = bool(tampered)
        if content is not None:
            if content.epoch > self._epochs.current:
                self._epochs.raise_above(content.epoch)
            if content.epoch < self._epochs.floor or not by_current_key:
                damaged = True
        assert content is None or isinstance(content, kind)
        return Published(
            content=content,
            version=metadata["resourceVersion"],
            owner=owner,
            problem=problem,
            damaged=damaged,
            tampered=tampered,
        )

    def _content(self, found: dict[str, Any], key: Key) -> tuple[Policy | Group | None, str, bool]:
        """What is published, where that counts; else why it does not.

        The last: whether the key that signs now made its signature.
        """
        text, signature = _data(found, key)
        kind = Policy if key.kind is Kind.ROLLOUT else Group
        load = loads_policy if key.kind is Kind.ROLLOUT else loads_group
        try:
            by_current_key = self._signing.is_current(kind, text, signature)
            content: Policy | Group = load(text, namespace=key.namespace, name=key.name)
        except InvalidPolicy as error:
            return None, str(error), False
        newest = self._newest.get(key)
        if newest is not None and _written(content) < _written(newest):
            return None, "an older one was put in its place", by_current_key
        self._newest[key] = content
        return content, "", by_current_key

    def _changed(
        self, found: dict[str, Any], key: Key, owner: str, content: Policy | Group | None
    ) -> str:
        """What is around the content and not as it was written; empty: nothing."""
        labels = found["metadata"].get("labels") or {}
        if not _labels(key).items() <= labels.items():
            return "its labels were changed"
        if content is not None and owner != self._owners.setdefault(key, owner):
            return "its ownerReferences were changed"
        return "it was made unchangeable" if _is_bound(found) else ""

    async def _list(self, accept: str, selector: str) -> AsyncIterator[Any]:
        for namespace in self._namespaces or ("",):
            where = f"/namespaces/{namespace}" if namespace else ""
            path = f"/api/v1{where}/configmaps"
            query = {"labelSelector": selector} if selector else {}
            async for item in self._api.pages(path, accept=accept, **query):
                yield item


def key_of(config_map: dict[str, Any]) -> Key | None:
    """The object for which a ConfigMap is published; None where it is none of ours."""
    metadata = config_map["metadata"]
    key = _named(config_map)
    if key is None:
        return None
    labels = metadata.get("labels") or {}
    ours = labels.get(COMPONENT_LABEL) == COMPONENTS[key.kind] or any(
        (owner["kind"], owner["name"]) == (key.kind, key.name)
        for owner in metadata.get("ownerReferences") or ()
    )
    return key if ours else None


def _named(config_map: dict[str, Any]) -> Key | None:
    """As `key_of`, by the name alone."""
    metadata = config_map["metadata"]
    for kind, object_name in _OBJECT_NAMES.items():
        name = metadata["name"].removeprefix(object_name(""))
        if name and object_name(name) == metadata["name"]:
            return Key(kind, metadata["namespace"], name)
    return None


def _data(found: dict[str, Any], key: Key) -> tuple[str, str]:
    """The text and its signature."""
    data = found.get("data") or {}
    return data.get(_DATA_KEYS[key.kind], ""), data.get(_SIGNATURE_KEYS[key.kind], "")


def _is_bound(found: dict[str, Any]) -> bool:
    """Whether it cannot be changed any more, or not deleted."""
    metadata = found["metadata"]
    return bool(
        found.get("immutable") or metadata.get("finalizers") or metadata.get("deletionTimestamp")
    )


def _written(content: Policy | Group) -> tuple[int, int]:
    return content.epoch, content.sequence


def _labels(key: Key) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, COMPONENT_LABEL: COMPONENTS[key.kind]}


def _path(key: Key) -> str:
    name = _OBJECT_NAMES[key.kind](key.name)
    return f"/api/v1/namespaces/{key.namespace}/configmaps/{name}"
