"""FirmwareRollouts and DeviceGroups at an API server."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from otaflux_operator.kubernetes.apis import MERGE_PATCH, METADATA_ONLY, Api, NotFound
from otaflux_operator.ports import Conflict, Key, Kind, Malformed
from otaflux_operator.resources import (
    API_VERSION,
    DeviceGroup,
    FirmwareRollout,
    GroupStatus,
    InvalidManifest,
    RolloutStatus,
    read_group,
    read_rollout,
)

PLURALS = {Kind.ROLLOUT: "firmwarerollouts", Kind.GROUP: "devicegroups"}
Resource = TypeVar("Resource", FirmwareRollout, DeviceGroup)
_STATUSES: dict[Kind, type[RolloutStatus] | type[GroupStatus]] = {
    Kind.ROLLOUT: RolloutStatus,
    Kind.GROUP: GroupStatus,
}


class KubernetesResources:
    """`ports.Resources` in the given namespaces (none: in all)."""

    def __init__(self, api: Api, namespaces: Sequence[str] = ()) -> None:
        self._api = api
        self._namespaces = namespaces

    async def rollout(self, namespace: str, name: str) -> FirmwareRollout | None:
        """See `ports.Resources`."""
        return await self._read(Key(Kind.ROLLOUT, namespace, name), read_rollout)

    async def group(self, namespace: str, name: str) -> DeviceGroup | None:
        """See `ports.Resources`."""
        return await self._read(Key(Kind.GROUP, namespace, name), read_group)

    async def groups(self, namespace: str) -> list[DeviceGroup]:
        """See `ports.Resources`."""
        found = []
        async for item in self._api.pages(_path(Kind.GROUP, namespace)):
            # The items of a list bear neither.
            item |= {"apiVersion": API_VERSION, "kind": Kind.GROUP}
            if item["metadata"].get("deletionTimestamp") is not None:
                continue
            try:
                found.append(read_group(item))
            except InvalidManifest:
                continue  # its own reconciliation says so
        return found

    async def are_served(self) -> bool:
        """Whether the API server knows the kinds. Raises Unavailable."""
        try:
            found = await self._api.get(f"/apis/{API_VERSION}")
        except NotFound:
            return False
        return set(PLURALS.values()) <= {kind["name"] for kind in found.get("resources") or ()}

    async def keys(self) -> set[Key]:
        """See `ports.Resources`."""
        return {key for kind in Kind async for key in self._keys(kind)}

    async def write_status(
        self, key: Key, status: RolloutStatus | GroupStatus, version: str
    ) -> None:
        """See `ports.Resources`."""
        body = {"metadata": {"resourceVersion": version}, "status": merge_form(status)}
        path = f"{_path(key.kind, key.namespace)}/{key.name}/status"
        try:
            await self._api.patch(path, body, kind=MERGE_PATCH)
        except NotFound:
            raise Conflict(path) from None

    async def _read(self, key: Key, read: Callable[[dict[str, Any]], Resource]) -> Resource | None:
        try:
            found = await self._api.get(f"{_path(key.kind, key.namespace)}/{key.name}")
        except NotFound:
            return None
        metadata = found["metadata"]
        if metadata.get("deletionTimestamp") is not None:
            return None
        try:
            return read(found)
        except InvalidManifest as error:
            raise Malformed(
                "; ".join(map(str, error.problems)),
                uid=metadata["uid"],
                generation=metadata.get("generation", 0),
                version=metadata["resourceVersion"],
                status=_status(key.kind, found.get("status", {})),
            ) from None

    async def _keys(self, kind: Kind) -> AsyncIterator[Key]:
        for namespace in self._namespaces or ("",):
            async for item in self._api.pages(_path(kind, namespace), accept=METADATA_ONLY):
                metadata = item["metadata"]
                if metadata.get("deletionTimestamp") is None:
                    yield Key(kind, metadata["namespace"], metadata["name"])


def merge_form(status: RolloutStatus | GroupStatus) -> dict[str, Any]:
    """The status as a merge patch that replaces the one there: what is absent is null (RFC 7386).

    Only in objects: lists are replaced whole.
    """

    def plain(value: Any, in_list: bool) -> Any:
        if isinstance(value, dict):
            return {
                key: plain(item, in_list)
                for key, item in value.items()
                if item is not None or not in_list
            }
        return [plain(item, True) for item in value] if isinstance(value, list) else value

    written: dict[str, Any] = plain(status.model_dump(mode="json"), False)
    return written


def _path(kind: Kind, namespace: str) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{API_VERSION}{where}/{PLURALS[kind]}"


def _status(kind: Kind, status: object) -> RolloutStatus | GroupStatus | None:
    try:
        return _STATUSES[kind].model_validate_json(json.dumps(status))
    except ValidationError:
        return None
