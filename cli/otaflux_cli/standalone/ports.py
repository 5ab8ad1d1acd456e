"""The operator's ports on one machine: a database, a folder of manifests, a server in-process."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from pydantic import ValidationError

from otaflux_cli.standalone.databases import Database, OtherVersion
from otaflux_cli.standalone.folders import ManifestFolder
from otaflux_cli.standalone.sources import ArtifactPlaces
from otaflux_oci import Repository, Source
from otaflux_operator.ports import (
    Conflict,
    Key,
    Kind,
    Malformed,
    Notice,
    Published,
    Unavailable,
)
from otaflux_operator.resources import (
    DeviceGroup,
    FirmwareRollout,
    GroupStatus,
    InvalidManifest,
    RolloutStatus,
    read_group,
    read_rollout,
)
from otaflux_policy.canonical import InvalidPolicy, dumps, loads_group, loads_policy
from otaflux_policy.contract import Policy
from otaflux_policy.credentials import RegistryAccess, entry_key
from otaflux_policy.groups import Group
from otaflux_policy.served import ServedRollout
from otaflux_server.policies import PolicyStore
from otaflux_server.registries import PullCredentials
from otaflux_server.serving import UpdateServer

log = structlog.get_logger(__name__)


class StoredResources:
    """`Resources`: manifests and status from the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rollout(self, namespace: str, name: str) -> FirmwareRollout | None:
        resource = await self._resource(Key(Kind.ROLLOUT, namespace, name))
        return None if resource is None else _read_rollout(resource)

    async def group(self, namespace: str, name: str) -> DeviceGroup | None:
        resource = await self._resource(Key(Kind.GROUP, namespace, name))
        return None if resource is None else _read_group(resource)

    async def groups(self, namespace: str) -> list[DeviceGroup]:
        resources = await asyncio.to_thread(self._database.resources, Kind.GROUP, namespace)
        groups = []
        for resource in resources:
            try:
                groups.append(_read_group(resource))
            except Malformed as error:
                log.error("device group left out", error=str(error))
        return groups

    async def keys(self) -> set[Key]:
        return await asyncio.to_thread(self._database.keys)

    async def write_status(
        self, key: Key, status: RolloutStatus | GroupStatus, version: str
    ) -> None:
        written = status.manifest()
        try:
            await asyncio.to_thread(self._database.write_status, key, written, version)
        except OtherVersion:
            raise Conflict(f"{key} has changed") from None

    async def _resource(self, key: Key) -> dict[str, Any] | None:
        return await asyncio.to_thread(self._database.resource, key)


class LocalPublications:
    """`Publications`: kept in the database, and in use by the server when the call returns.

    They never leave the process: nothing is signed.
    """

    problem = ""

    def __init__(self, database: Database, policies: PolicyStore) -> None:
        self._database = database
        self._policies = policies

    async def restore(self) -> None:
        """Gives the server all that was published before a restart."""
        texts: dict[Kind, dict[tuple[str, str], str]] = {kind: {} for kind in Kind}
        published = await asyncio.to_thread(self._database.publications)
        for key, publication in published.items():
            texts[key.kind][key.namespace, key.name] = publication.content
        self._policies.replace(texts[Kind.ROLLOUT], texts[Kind.GROUP])

    async def policy(self, namespace: str, name: str) -> Published[Policy] | None:
        found = await self._find(Key(Kind.ROLLOUT, namespace, name))
        if found is None:
            return None
        try:
            content = loads_policy(found.content, namespace=namespace, name=name)
        except InvalidPolicy as error:
            return Published(None, str(found.version), found.owner, str(error))
        return Published(content, str(found.version), found.owner)

    async def group(self, namespace: str, name: str) -> Published[Group] | None:
        found = await self._find(Key(Kind.GROUP, namespace, name))
        if found is None:
            return None
        try:
            content = loads_group(found.content, namespace=namespace, name=name)
        except InvalidPolicy as error:
            return Published(None, str(found.version), found.owner, str(error))
        return Published(content, str(found.version), found.owner)

    async def keys(self) -> set[Key]:
        return set(await asyncio.to_thread(self._database.publications))

    async def entries(self) -> set[str]:
        return {
            artifact.credentials
            for policy in self._policies.policies()
            for release in policy.releases
            for artifact in release.artifacts
            if artifact.credentials is not None
        }

    async def publish(
        self, key: Key, content: Policy | Group, *, owner: str, version: str | None
    ) -> None:
        text = dumps(content)
        try:
            await asyncio.to_thread(self._database.publish, key, text, owner, version)
        except OtherVersion:
            raise Conflict(f"what is published for {key} has changed") from None
        apply = (
            self._policies.apply_policy if key.kind is Kind.ROLLOUT else self._policies.apply_group
        )
        if not apply(key.namespace, key.name, text):
            why = self._policies.rejected(key.namespace, key.name)
            raise Unavailable(f"the server refuses what is published for {key}: {why}")

    async def withdraw(self, key: Key) -> bool:
        removed = await asyncio.to_thread(self._database.withdraw, key)
        if key.kind is Kind.ROLLOUT:
            self._policies.remove_policy(key.namespace, key.name)
        else:
            self._policies.remove_group(key.namespace, key.name)
        return removed

    async def _find(self, key: Key) -> Any:
        return await asyncio.to_thread(self._database.publication, key)


class LoggedNotices:
    """`Notices`: a line in the log."""

    async def post(self, notice: Notice) -> None:
        tell = log.warning if notice.warning else log.info
        tell(
            notice.message,
            object=f"{notice.key.namespace}/{notice.key.name}",
            kind=str(notice.key.kind),
            reason=notice.reason,
        )


class FolderSecrets:
    """`Secrets`: those among the manifests."""

    def __init__(self, folder: ManifestFolder) -> None:
        self._folder = folder

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        return self._folder.secret((namespace, name))


class LocalEntries:
    """`CredentialEntries`: in memory, and with the server at once."""

    def __init__(self, credentials: PullCredentials) -> None:
        self._credentials = credentials
        self._entries: dict[str, bytes] = {}

    async def names(self) -> set[str]:
        return set(self._entries)

    async def add(self, name: str, access: RegistryAccess) -> None:
        self._entries[name] = access.dumps().encode()
        self._hand_over()

    async def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._entries.pop(name, None)
        self._hand_over()

    def _hand_over(self) -> None:
        self._credentials.replace(
            {entry_key(name): content for name, content in self._entries.items()}
        )


class LocalServer:
    """`UpdateServers`: the one in this process."""

    def __init__(self, server: UpdateServer) -> None:
        self._server = server

    async def served(self, namespace: str, name: str) -> ServedRollout:
        return self._server.served(namespace, name)


class LocalSources:
    """`Sources`: the layout for what it holds, registries for the rest."""

    def __init__(self, places: ArtifactPlaces) -> None:
        self._places = places

    def open(
        self, repository: Repository, access: RegistryAccess, *, insecure: bool
    ) -> AbstractAsyncContextManager[Source]:
        return self._places.open(repository, access, insecure=insecure)


def _read_rollout(resource: dict[str, Any]) -> FirmwareRollout:
    try:
        return read_rollout(resource)
    except InvalidManifest as error:
        raise _malformed(resource, error, RolloutStatus) from None


def _read_group(resource: dict[str, Any]) -> DeviceGroup:
    try:
        return read_group(resource)
    except InvalidManifest as error:
        raise _malformed(resource, error, GroupStatus) from None


def _malformed(
    resource: dict[str, Any],
    error: InvalidManifest,
    kind: type[RolloutStatus] | type[GroupStatus],
) -> Malformed:
    """For what another version of OtaFlux accepted, and this one does not."""
    metadata = resource["metadata"]
    try:
        status = kind.model_validate_json(json.dumps(resource["status"]))
    except ValidationError:
        status = kind()
    return Malformed(
        str(error),
        uid=metadata["uid"],
        generation=metadata["generation"],
        version=metadata["resourceVersion"],
        status=status,
    )
