"""The operator's ports in memory: what Kubernetes, servers and registries are in its tests."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError

from otaflux_oci import OciError
from otaflux_operator.epochs import Epochs
from otaflux_operator.operating import Operator
from otaflux_operator.ports import (
    Conflict,
    Key,
    Kind,
    Malformed,
    Notice,
    Ports,
    Published,
    Sources,
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
from otaflux_operator.timing import Clock, Timing, current
from otaflux_policy.contract import Policy
from otaflux_policy.counts import RingCounts, RolloutCounts, Trip, trip
from otaflux_policy.credentials import RegistryAccess
from otaflux_policy.groups import Group
from otaflux_policy.served import ArtifactState, ServedArtifact, ServedRollout
from tests.operator.fake_sources import FakeSources
from tests.operator.worlds import manifest

Counts = Callable[[Policy], Mapping[str, Mapping[str, int]]]
CEILING = 30.0
QUICK = Timing(
    retry_first=0.01,
    retry_most=0.05,
    error_first=0.01,
    error_most=0.05,
    ask_first=0.001,
    ask_most=0.01,
    ask_evidence=0.01,
    ask_steady=0.05,
    status_every=0.0,
    sweep_every=0.05,
)
"""As always, but without the waiting."""


async def eventually(holds: Callable[[], bool], what: str = "") -> None:
    """Waits until `holds()`; fails after a generous time."""
    try:
        async with asyncio.timeout(CEILING):
            while not holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never: {what or holds}") from None


class Cluster:
    """Everything outside of the operator. Objects are manifests; each change is a new version.

    `troubles`: by the name of a port's method, what it raises next, once each; `held`: by the
    same names, an event that it waits for first; `written`: called with it after a write of a
    policy or a status. `counts` tells what servers count by a policy (None: nothing yet), with
    fields per ring; they latch a trip per run as they do.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.published: dict[Key, tuple[Policy | Group, str, int]] = {}
        self.damaged: set[Key] = set()
        self.secrets: dict[tuple[str, str], dict[str, bytes]] = {}
        self.credentials: dict[str, RegistryAccess] = {}
        self.notices: list[Notice] = []
        self.tags: dict[str, str] = {}
        self.serving = True
        self.now: Clock = current
        self.counts: Counts | None = lambda _: {}
        self.trips: dict[int, Trip] = {}
        self.written: Callable[[str], Awaitable[None]] | None = None
        self.storing = True
        self.unpublishable = ""
        self.registry_error: OciError | None = None
        self.troubles: dict[str, list[Exception]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.accesses: list[RegistryAccess] = []
        self.sources: Sources | None = None
        self._version = 0

    @property
    def ports(self) -> Ports:
        return Ports(
            resources=_Resources(self),
            publications=_Publications(self),
            notices=_Notices(self),
            secrets=_Secrets(self),
            entries=_Entries(self),
            servers=_Servers(self),
            sources=self.sources or FakeSources(self),
        )

    async def called(self, name: str) -> None:
        self.calls.append(name)
        if (event := self.held.get(name)) is not None:
            await event.wait()
        if self.troubles.get(name):
            raise self.troubles[name].pop(0)

    async def wrote(self, name: str) -> None:
        if self.written is not None:
            await self.written(name)

    def put(self, key: Key, content: Mapping[str, Any]) -> None:
        """Somebody applies a manifest: a change of its spec is a new generation."""
        known = self.objects.get(key)
        copied: dict[str, Any] = copy.deepcopy(dict(content))
        metadata = copied["metadata"] | {"name": key.name, "namespace": key.namespace}
        metadata["resourceVersion"] = self.version()
        if known is not None:
            metadata["generation"] = known["metadata"]["generation"] + 1
            copied["status"] = known.get("status", {})
        self.objects[key] = copied | {"metadata": metadata}

    def edit(self, key: Key, **spec: Any) -> None:
        """Somebody changes fields of a spec."""
        content = self.objects[key]
        self.put(key, content | {"spec": content["spec"] | spec})

    def version(self) -> str:
        self._version += 1
        return str(self._version)

    def policy(self, key: Key) -> Policy | None:
        content = self.published[key][0] if key in self.published else None
        assert not isinstance(content, Group)
        return content

    def status(self, key: Key) -> dict[str, Any]:
        status: dict[str, Any] = self.objects[key].get("status", {})
        return status

    def condition(self, key: Key, type_: str) -> dict[str, str]:
        known = self.status(key).get("conditions", ())
        return next((one for one in known if one["type"] == type_), {"status": "", "reason": ""})


@asynccontextmanager
async def running(
    cluster: Cluster, timing: Timing = QUICK, *, epoch: int = 0
) -> AsyncIterator[Operator]:
    """The operator on this cluster."""
    operator = Operator(cluster.ports, timing, epochs=Epochs(epoch), clock=cluster.now)
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


def rollout_key(name: str = "thermostat") -> Key:
    return Key(Kind.ROLLOUT, "home", name)


def group_manifest(names: list[str], **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "DeviceGroup",
        "metadata": {"uid": f"uid of {names}", "generation": 1},
        "spec": {"names": names, "labels": labels},
    }


def with_rollout(**spec: Any) -> tuple[Cluster, Key]:
    """A cluster with one rollout, whose tag the registry has."""
    cluster, key = Cluster(), rollout_key()
    cluster.put(key, manifest(**spec))
    cluster.tags["1.0.0"] = "1.0.0"
    return cluster, key


class _Port:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster


class _Resources(_Port):
    async def rollout(self, namespace: str, name: str) -> FirmwareRollout | None:
        await self.cluster.called("rollout")
        content = self.cluster.objects.get(Key(Kind.ROLLOUT, namespace, name))
        return None if content is None else _read(content, read_rollout, RolloutStatus)

    async def group(self, namespace: str, name: str) -> DeviceGroup | None:
        await self.cluster.called("group")
        content = self.cluster.objects.get(Key(Kind.GROUP, namespace, name))
        return None if content is None else _read(content, read_group, GroupStatus)

    async def groups(self, namespace: str) -> list[DeviceGroup]:
        await self.cluster.called("groups")
        return [
            read_group(content)
            for key, content in self.cluster.objects.items()
            if (key.kind, key.namespace) == (Kind.GROUP, namespace)
        ]

    async def keys(self) -> set[Key]:
        await self.cluster.called("keys")
        return set(self.cluster.objects)

    async def write_status(
        self, key: Key, status: RolloutStatus | GroupStatus, version: str
    ) -> None:
        await self.cluster.called("write_status")
        content = self.cluster.objects.get(key)
        if content is None or content["metadata"]["resourceVersion"] != version:
            raise Conflict(str(key))
        content["status"] = status.manifest()
        content["metadata"]["resourceVersion"] = self.cluster.version()
        await self.cluster.wrote("write_status")


def _read(content: dict[str, Any], read: Callable[..., Any], status: type[Any]) -> Any:
    metadata = content["metadata"]
    try:
        return read(content)
    except InvalidManifest as error:
        raise Malformed(
            str(error),
            uid=metadata["uid"],
            generation=metadata["generation"],
            version=metadata["resourceVersion"],
            status=_readable(content.get("status", {}), status),
        ) from None


def _readable(content: dict[str, Any], status: type[Any]) -> Any:
    try:
        return status.model_validate_json(json.dumps(content))
    except ValidationError:
        return None


class _Publications(_Port):
    @property
    def problem(self) -> str:
        return self.cluster.unpublishable

    async def policy(self, namespace: str, name: str) -> Published[Policy] | None:
        await self.cluster.called("policy")
        return self._published(Key(Kind.ROLLOUT, namespace, name))

    async def group(self, namespace: str, name: str) -> Published[Group] | None:
        await self.cluster.called("published_group")
        return self._published(Key(Kind.GROUP, namespace, name))

    async def keys(self) -> set[Key]:
        return set(self.cluster.published)

    async def entries(self) -> set[str]:
        policies = [content for content, _, _ in self.cluster.published.values()]
        return {
            release.firmware.credentials
            for policy in policies
            if isinstance(policy, Policy)
            for release in policy.releases
            if release.firmware.credentials is not None
        }

    async def publish(
        self, key: Key, content: Policy | Group, *, owner: str, version: str | None
    ) -> None:
        await self.cluster.called("publish")
        known = self.cluster.published.get(key)
        if (str(known[2]) if known is not None else None) != version:
            raise Conflict(str(key))
        self.cluster.published[key] = (content, owner, int(self.cluster.version()))
        self.cluster.damaged.discard(key)
        await self.cluster.wrote("publish")

    async def withdraw(self, key: Key) -> bool:
        await self.cluster.called("withdraw")
        return self.cluster.published.pop(key, None) is not None

    def _published(self, key: Key) -> Published[Any] | None:
        known = self.cluster.published.get(key)
        if known is None:
            return None
        content, owner, version = known
        return Published(content, str(version), owner, damaged=key in self.cluster.damaged)


class _Notices(_Port):
    async def post(self, notice: Notice) -> None:
        self.cluster.notices.append(notice)


class _Secrets(_Port):
    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        await self.cluster.called("secret")
        return self.cluster.secrets.get((namespace, name))


class _Entries(_Port):
    async def names(self) -> set[str]:
        return set(self.cluster.credentials)

    async def add(self, name: str, access: RegistryAccess) -> None:
        await self.cluster.called("add")
        self.cluster.credentials[name] = access

    async def remove(self, names: Iterable[str]) -> None:
        await self.cluster.called("remove")
        for name in names:
            self.cluster.credentials.pop(name, None)


class _Servers(_Port):
    async def served(self, namespace: str, name: str) -> ServedRollout:
        await self.cluster.called("served")
        if not self.cluster.serving:
            raise Unavailable("no route to the servers")
        policy = self.cluster.policy(Key(Kind.ROLLOUT, namespace, name))
        state = ArtifactState.STORED if self.cluster.storing else ArtifactState.FETCHING
        releases = policy.releases if policy is not None else ()
        counts = self._count(policy) if policy is not None else None
        return ServedRollout(
            namespace=namespace,
            name=name,
            revision=policy.revision if policy is not None else None,
            run=policy.run if policy is not None else 0,
            counts=counts,
            trip=self.cluster.trips.get(policy.run) if policy is not None else None,
            artifacts=tuple(
                ServedArtifact(digest=release.firmware.digest, state=state) for release in releases
            ),
        )

    def _count(self, policy: Policy) -> RolloutCounts | None:
        if self.cluster.counts is None:
            return None
        known, now = self.cluster.counts(policy), self.cluster.now()
        counts = RolloutCounts(
            revision=policy.revision,
            release=policy.target.digest if policy.target is not None else None,
            run=policy.run,
            at=now,
            rings=tuple(
                RingCounts.model_validate({"name": ring.name, **known.get(ring.name, {})})
                for ring in policy.rings
            ),
        )
        if (opened := trip(policy, counts, now)) is not None:
            self.cluster.trips.setdefault(policy.run, opened)
        return counts
