"""Secrets: those that rollouts refer to, and the one through which servers get credentials."""

import base64
import binascii
from collections.abc import Iterable, Mapping

from otaflux_operator.kubernetes.apis import APPLY_PATCH, MERGE_PATCH, Api, NotFound
from otaflux_policy import signing
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

    async def keep(self, keys: Iterable[signing.PublicKey]) -> None:
        """The public keys by which servers check policies are these, and no others."""
        wanted = {
            signing.entry_key(key.id): base64.b64encode(key.dumps().encode()).decode()
            for key in keys
        }
        try:
            found = (await self._api.get(f"{self._list}/{self._name}")).get("data") or {}
        except NotFound:
            await self._create(wanted)
            return
        there = {name: value for name, value in found.items() if signing.is_entry_key(name)}
        changes: dict[str, str | None] = {name: None for name in there if name not in wanted}
        changes |= {name: value for name, value in wanted.items() if there.get(name) != value}
        if changes:
            await self._patch(changes)

    @property
    def _list(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    async def _patch(self, data: Mapping[str, str | None]) -> None:
        await self._api.patch(f"{self._list}/{self._name}", {"data": data}, kind=MERGE_PATCH)

    async def _create(self, data: Mapping[str, str]) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
        }
        # By apply, which unlike POST names what it creates: RBAC allows it for this one alone.
        # Without entries: a later apply would take away those that it does not repeat.
        await self._api.patch(f"{self._list}/{self._name}", body, kind=APPLY_PATCH, force="true")
        await self._patch(data)


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return b""
