"""The servers that share a database: what each serves, and one answer for all of them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from otaflux_policy.contract import Policy
from otaflux_policy.served import (
    ArtifactState,
    Replica,
    ServedArtifact,
    ServedPolicy,
    ServedRollout,
)
from otaflux_server.background import set_within
from otaflux_server.evidence.databases import StoreUnavailable

log = structlog.get_logger(__name__)

_SPACING_SECONDS = 0.1
"""Between two heartbeats, however often something changes."""

RolloutKey = tuple[str, str]
"""Namespace and name."""


class Heartbeats(Protocol):
    """Where replicas tell each other (`Store`). Both raise StoreUnavailable."""

    async def heartbeat(self, replica: Replica) -> None:
        """Tells the others of this one."""

    async def replicas(self, now: datetime, *, interval: float = 2.0) -> list[Replica]:
        """All of them; `live` are those that told within the last three intervals (seconds)."""


class Replicas:
    """What is known of the others, read every `interval` seconds.

    `store` is None where nobody can share the database (SQLite): then there is only this one, and
    nothing is waited for. `own` describes this server. While the database cannot be read, those
    that were live go on counting as live: nobody knows what they serve now.
    """

    def __init__(
        self,
        store: Heartbeats | None,
        own: Callable[[], Replica],
        *,
        interval: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.failure = ""
        """Why the others are not known; empty: they are."""
        self._store = store
        self._own = own
        self._interval = interval
        self._clock = clock
        self._known: list[Replica] = []
        self._others: list[_Other] = []
        self._read_at: float | None = None
        self._changed = asyncio.Event()

    @property
    def shared(self) -> bool:
        """Whether there may be others."""
        return self._store is not None

    def all(self) -> list[Replica]:
        """Every replica that told of itself lately, by name, this one as it is now."""
        own = self._own()
        found = {replica.name: replica for replica in self._known} | {own.name: own}
        return [found[name] for name in sorted(found)]

    def soon(self) -> None:
        """What this server serves or stores changed: the others are told at once."""
        self._changed.set()

    def merge(self, own: ServedRollout, policy: Policy | None) -> ServedRollout:
        """What all live replicas serve of the rollout; `own` is what this one does, by `policy`.

        A revision only where it is the same for all: else that of the one that lags. An artifact
        is stored only where all store it. Counts grow old while the others' facts are not read.
        """
        if self._store is None:
            return own
        if self._read_at is None:
            return own.model_copy(update={"revision": None, "policy_keys": ()})
        if not self._others:
            return own
        key = (own.namespace, own.name)
        merged: dict[str, object] = {
            "revision": _revision(policy, (other.policies.get(key) for other in self._others)),
            "schema_versions": tuple(
                version
                for version in own.schema_versions
                if all(version in other.schema_versions for other in self._others)
            ),
            "policy_keys": tuple(
                key
                for key in own.policy_keys
                if all(key in other.policy_keys for other in self._others)
            ),
            "epoch": max(own.epoch, *(other.epoch for other in self._others)),
            "artifacts": tuple(
                _artifact(
                    artifact, (other.artifacts.get(artifact.digest) for other in self._others)
                )
                for artifact in own.artifacts
            ),
        }
        read_at = datetime.fromtimestamp(self._read_at, UTC)
        if own.counts is not None and self.failure:
            counts = own.counts
            merged["counts"] = counts.model_copy(update={"at": min(counts.at, read_at)})
        return own.model_copy(update=merged)

    async def run(self) -> None:
        """Tells and reads, until cancelled."""
        while self._store is not None:
            self._changed.clear()
            await self.exchange()
            await asyncio.sleep(min(_SPACING_SECONDS, self._interval))
            await set_within(self._changed, max(0.0, self._interval - _SPACING_SECONDS))

    async def exchange(self) -> None:
        """Tells the others of this one, and reads what they told."""
        if self._store is None:
            return
        try:
            own = self._own()
            await self._store.heartbeat(own)
            now = self._clock()
            known = await self._store.replicas(
                datetime.fromtimestamp(now, UTC), interval=self._interval
            )
        except StoreUnavailable as error:
            self._failed(str(error))
        except Exception as error:  # a fault of ours, or another version tells what is not read
            self._failed(f"a replica cannot be understood ({type(error).__name__})", error)
        else:
            if self.failure:
                log.info("the other replicas are known again")
            self.failure = ""
            self._read_at = now
            self._known = known
            self._others = [
                _Other.of(replica) for replica in known if replica.live and replica.name != own.name
            ]

    def _failed(self, why: str, fault: Exception | None = None) -> None:
        if not self.failure:
            log.warning("the other replicas are not known", reason=why, exc_info=fault)
        self.failure = why


def served_policy(policy: Policy) -> ServedPolicy:
    """The policy, as the replica that uses it tells the others."""
    return ServedPolicy(
        namespace=policy.namespace,
        name=policy.name,
        revision=policy.revision,
        created_at=policy.created_at,
        epoch=policy.epoch,
        sequence=policy.sequence,
    )


@dataclass(frozen=True, slots=True)
class _Other:
    """Another live replica, ready to be looked up."""

    schema_versions: frozenset[int]
    policy_keys: frozenset[str]
    epoch: int
    policies: Mapping[RolloutKey, ServedPolicy]
    artifacts: Mapping[str, ServedArtifact]

    @classmethod
    def of(cls, replica: Replica) -> "_Other":
        return cls(
            frozenset(replica.schema_versions),
            frozenset(replica.policy_keys),
            replica.epoch,
            {(policy.namespace, policy.name): policy for policy in replica.policies},
            {artifact.digest: artifact for artifact in replica.artifacts},
        )


def _revision(policy: Policy | None, others: Iterable[ServedPolicy | None]) -> str | None:
    """The revision in use; where replicas differ, that of the one that lags."""
    served = [None if policy is None else served_policy(policy), *others]
    oldest: ServedPolicy | None = None
    for other in served:
        if other is None:
            return None
        if oldest is None or _written(other) < _written(oldest):
            oldest = other
    return oldest.revision if oldest is not None else None


def _written(policy: ServedPolicy) -> tuple[datetime, int, int, str]:
    return (policy.created_at, policy.epoch, policy.sequence, policy.revision)


def _artifact(own: ServedArtifact, others: Iterable[ServedArtifact | None]) -> ServedArtifact:
    if own.state is not ArtifactState.STORED:
        return own
    missing = None
    for other in others:
        if other is None:
            missing = missing or ServedArtifact(digest=own.digest, state=ArtifactState.FETCHING)
        elif other.state is not ArtifactState.STORED:
            missing = other
    return missing or own
