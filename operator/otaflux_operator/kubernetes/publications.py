"""Policies and groups in ConfigMaps, by server-side apply with one field manager."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from otaflux_operator.kubernetes.apis import APPLY_PATCH, METADATA_ONLY, Api, NotFound
from otaflux_operator.ports import Key, Kind, Published
from otaflux_operator.resources import API_VERSION
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

Content = TypeVar("Content", Policy, Group)

COMPONENTS = {Kind.ROLLOUT: POLICY_COMPONENT, Kind.GROUP: GROUP_COMPONENT}
_DATA_KEYS = {Kind.ROLLOUT: POLICY_KEY, Kind.GROUP: GROUP_KEY}
_OBJECT_NAMES = {Kind.ROLLOUT: policy_object_name, Kind.GROUP: group_object_name}
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY},{COMPONENT_LABEL}"


class KubernetesPublications:
    """`ports.Publications` in the given namespaces (none: in all)."""

    def __init__(self, api: Api, namespaces: Sequence[str] = ()) -> None:
        self._api = api
        self._namespaces = namespaces

    async def policy(self, namespace: str, name: str) -> Published[Policy] | None:
        """See `ports.Publications`."""
        return await self._read(Key(Kind.ROLLOUT, namespace, name), loads_policy)

    async def group(self, namespace: str, name: str) -> Published[Group] | None:
        """See `ports.Publications`."""
        return await self._read(Key(Kind.GROUP, namespace, name), loads_group)

    async def keys(self) -> set[Key]:
        """See `ports.Publications`."""
        listed = self._list(METADATA_ONLY, SELECTOR)
        return {key async for item in listed if (key := key_of(item)) is not None}

    async def entries(self) -> set[str]:
        """See `ports.Publications`."""
        selector = f"{MANAGED_BY_LABEL}={MANAGED_BY},{COMPONENT_LABEL}={POLICY_COMPONENT}"
        found: set[str] = set()
        async for item in self._list("application/json", selector):
            key = key_of(item)
            published = _published(item, key, loads_policy) if key is not None else None
            if published is not None and published.content is not None:
                artifacts = [release.firmware for release in published.content.releases]
                found |= {a.credentials for a in artifacts if a.credentials is not None}
        return found

    async def publish(
        self, key: Key, content: Policy | Group, *, owner: str, version: str | None
    ) -> None:
        """See `ports.Publications`."""
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
            "data": {_DATA_KEYS[key.kind]: canonical.dumps(content)},
        }
        if version is not None:
            body["metadata"]["resourceVersion"] = version
        # By force: whoever else changed these fields is not their owner.
        await self._api.patch(_path(key), body, kind=APPLY_PATCH, force="true")

    async def withdraw(self, key: Key) -> bool:
        """See `ports.Publications`. An object that merely has the name stays."""
        try:
            found = await self._api.get(_path(key))
            if key_of(found) != key:
                return False
            metadata = found["metadata"]
            await self._api.delete(
                _path(key), uid=metadata["uid"], version=metadata["resourceVersion"]
            )
        except NotFound:
            return False
        return True

    async def _read(self, key: Key, load: Callable[..., Content]) -> Published[Content] | None:
        try:
            found = await self._api.get(_path(key))
        except NotFound:
            return None
        return _published(found, key, load)

    async def _list(self, accept: str, selector: str) -> AsyncIterator[Any]:
        for namespace in self._namespaces or ("",):
            where = f"/namespaces/{namespace}" if namespace else ""
            path = f"/api/v1{where}/configmaps"
            async for item in self._api.pages(path, accept=accept, labelSelector=selector):
                yield item


def key_of(config_map: dict[str, Any]) -> Key | None:
    """The object for which a ConfigMap is published; None where it is none of ours."""
    metadata = config_map["metadata"]
    for kind, component in COMPONENTS.items():
        prefix = _OBJECT_NAMES[kind]("")
        name = metadata["name"].removeprefix(prefix)
        if metadata["name"].startswith(prefix) and name:
            key = Key(kind, metadata["namespace"], name)
            labels = metadata.get("labels") or {}
            ours = labels.get(COMPONENT_LABEL) == component or any(
                (owner["kind"], owner["name"]) == (kind, name)
                for owner in metadata.get("ownerReferences") or ()
            )
            return key if ours else None
    return None


def _published(
    config_map: dict[str, Any], key: Key, load: Callable[..., Content]
) -> Published[Content]:
    metadata = config_map["metadata"]
    owners = metadata.get("ownerReferences") or ()
    labels = metadata.get("labels") or {}
    content, problem = None, ""
    try:
        content = load(
            (config_map.get("data") or {}).get(_DATA_KEYS[key.kind], ""),
            namespace=key.namespace,
            name=key.name,
        )
    except InvalidPolicy as error:
        problem = str(error)
    return Published(
        content=content,
        version=metadata["resourceVersion"],
        owner=next((owner["uid"] for owner in owners if owner["kind"] == key.kind), ""),
        problem=problem,
        damaged=not _labels(key).items() <= labels.items(),
    )


def _labels(key: Key) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, COMPONENT_LABEL: COMPONENTS[key.kind]}


def _path(key: Key) -> str:
    name = _OBJECT_NAMES[key.kind](key.name)
    return f"/api/v1/namespaces/{key.namespace}/configmaps/{name}"
