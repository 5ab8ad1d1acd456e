"""Secrets: those that rollouts refer to, and the one through which servers get credentials."""

import base64
import binascii
from collections.abc import Iterable, Mapping

from otaflux_operator.kubernetes.apis import MERGE_PATCH, Api, NotFound
from otaflux_operator.ports import Conflict
from otaflux_policy.contract import MANAGED_BY, MANAGED_BY_LABEL
from otaflux_policy.credentials import ENTRY_SUFFIX, RegistryAccess, entry_key


class KubernetesSecrets:
    """`ports.Secrets`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """See `ports.Secrets`."""
        try:
            found = await self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except NotFound:
            return None
        return {key: _decode(value) for key, value in (found.get("data") or {}).items()}


class KubernetesCredentialEntries:
    """`ports.CredentialEntries` in one Secret, which exists once an entry does."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name

    async def names(self) -> set[str]:
        """See `ports.CredentialEntries`."""
        try:
            found = await self._api.get(f"{self._list}/{self._name}")
        except NotFound:
            return set()
        keys = found.get("data") or {}
        return {key.removesuffix(ENTRY_SUFFIX) for key in keys if key.endswith(ENTRY_SUFFIX)}

    async def add(self, name: str, access: RegistryAccess) -> None:
        """See `ports.CredentialEntries`."""
        value = base64.b64encode(access.dumps().encode()).decode()
        try:
            await self._patch({entry_key(name): value})
        except NotFound:
            await self._create({entry_key(name): value})

    async def remove(self, names: Iterable[str]) -> None:
        """See `ports.CredentialEntries`."""
        try:
            await self._patch({entry_key(name): None for name in names})
        except NotFound:
            return

    @property
    def _list(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    async def _patch(self, data: Mapping[str, str | None]) -> None:
        await self._api.patch(f"{self._list}/{self._name}", {"data": data}, kind=MERGE_PATCH)

    async def _create(self, data: Mapping[str, str]) -> None:
        metadata = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {MANAGED_BY_LABEL: MANAGED_BY},
        }
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        try:
            await self._api.post(self._list, body)
        except Conflict:
            await self._patch(data)


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return b""
