"""Servers that share a database answer for each other, count the same and trip together."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from otaflux_policy.contract import FailureAction, FailureRule, Policy, Ring
from otaflux_policy.counts import RolloutCounts
from otaflux_policy.served import (
    ArtifactState,
    Replica,
    ServedArtifact,
    ServedRollout,
)
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.replicas import Replicas, served_policy
from tests.server.fleets import (
    NAMESPACE,
    Served,
    digest_of,
    firmware,
    group,
    policy,
    release,
    serving,
    settings,
    until,
)

NOW = datetime.now(UTC)
CONTENT = firmware("1.4.0")
DIGEST = digest_of(CONTENT)
OLD = policy(epoch=1, sequence=1)
NEW = policy(epoch=1, sequence=2)
STORED = ServedArtifact(digest=DIGEST, state=ArtifactState.STORED)
FETCHING = ServedArtifact(digest=DIGEST, state=ArtifactState.FETCHING)
FAILED = ServedArtifact(digest=DIGEST, state=ArtifactState.FAILED, reason="RegistryUnreachable")


def replica(name: str = "other", *policies: Policy, **fields: object) -> Replica:
    values: dict[str, object] = {
        "started_at": NOW,
        "seen_at": NOW,
        "schema_versions": (1,),
        "policies": tuple(served_policy(item) for item in policies),
        "artifacts": (STORED,),
    }
    return Replica.model_validate({"name": name} | values | fields)


def served_by(item: Policy | None, *artifacts: ServedArtifact) -> ServedRollout:
    return ServedRollout(
        namespace=NAMESPACE,
        name="thermostat",
        revision=item.revision if item is not None else None,
        schema_versions=(1,),
        artifacts=artifacts or (STORED,),
    )


class Others:
    """What the database says; None: it is lost."""

    def __init__(self, *others: Replica) -> None:
        self.others: list[Replica] | None = list(others)
        self.told: list[Replica] = []

    async def heartbeat(self, replica: Replica) -> None:
        if self.others is None:
            raise StoreUnavailable("the database is lost")
        self.told.append(replica)

    async def replicas(self, now: datetime, *, interval: float = 2.0) -> list[Replica]:
        if self.others is None:
            raise StoreUnavailable("the database is lost")
        return [*self.others, *self.told[-1:]]


async def known(*others: Replica) -> Replicas:
    replicas = Replicas(Others(*others), lambda: replica("own", NEW))
    await replicas.exchange()
    return replicas


class TestOneAnswer:
    def test_alone_nothing_is_waited_for(self) -> None:
        own = served_by(NEW, FETCHING)
        assert Replicas(None, lambda: replica("own")).merge(own, NEW) == own

    async def test_the_only_one_of_a_database_is_alone(self) -> None:
        own = served_by(NEW, FETCHING)
        assert (await known()).merge(own, NEW) == own
        gone = replica("gone", OLD, live=False, artifacts=())
        assert (await known(gone)).merge(own, NEW) == own

    def test_before_the_others_are_known_nothing_is_served_by_all(self) -> None:
        replicas = Replicas(Others(), lambda: replica("own"))
        own = served_by(NEW).model_copy(update={"policy_keys": ("a",)})
        assert replicas.merge(own, NEW).revision is None
        assert replicas.merge(own, NEW).policy_keys == ()

    async def test_a_key_is_known_where_all_know_it_and_an_epoch_where_any_does(self) -> None:
        both = {"policy_keys": ("a", "b"), "epoch": 7}
        own = served_by(NEW).model_copy(update=both)
        less = replica("less", NEW).model_copy(update={"policy_keys": ("b", "c"), "epoch": 9})
        more = replica("more", NEW).model_copy(update=both | {"epoch": 1})
        found = (await known(less, more)).merge(own, NEW)
        assert (found.policy_keys, found.epoch) == (("b",), 9)

    @pytest.mark.parametrize(
        ("own", "other", "expected"),
        [
            (NEW, NEW, NEW),
            (NEW, OLD, OLD),
            (OLD, NEW, OLD),
            (NEW, None, None),
            (None, NEW, None),
        ],
    )
    async def test_the_revision_is_that_of_the_one_that_lags(
        self, own: Policy | None, other: Policy | None, expected: Policy | None
    ) -> None:
        replicas = await known(replica("a", NEW), replica("b", *([other] if other else [])))
        found = replicas.merge(served_by(own), own)
        assert found.revision == (expected.revision if expected is not None else None)

    async def test_of_a_rollout_that_was_created_again_the_old_one_lags(self) -> None:
        again = policy(epoch=1, sequence=1, created_at=OLD.created_at + timedelta(days=1))
        replicas = await known(replica("a", NEW))
        assert replicas.merge(served_by(again), again).revision == NEW.revision

    @pytest.mark.parametrize(
        ("own", "other", "expected"),
        [
            (STORED, (STORED,), STORED),
            (STORED, (FETCHING,), FETCHING),
            (STORED, (FAILED,), FAILED),
            (STORED, (), FETCHING),
            (FAILED, (STORED,), FAILED),
        ],
    )
    async def test_an_artifact_is_stored_where_all_store_it(
        self, own: ServedArtifact, other: tuple[ServedArtifact, ...], expected: ServedArtifact
    ) -> None:
        replicas = await known(replica("a", NEW), replica("b", NEW, artifacts=other))
        assert replicas.merge(served_by(NEW, own), NEW).artifacts == (expected,)

    async def test_schema_versions_are_those_that_all_read(self) -> None:
        replicas = await known(replica("a", NEW, schema_versions=(1, 2)))
        assert replicas.merge(served_by(NEW), NEW).schema_versions == (1,)
        replicas = await known(replica("a", NEW, schema_versions=(2,)))
        assert replicas.merge(served_by(NEW), NEW).schema_versions == ()

    async def test_while_the_database_is_lost_the_others_count_and_counts_grow_old(self) -> None:
        others = Others(replica("a", OLD))
        clock = NOW.timestamp()
        replicas = Replicas(others, lambda: replica("own", NEW), clock=lambda: clock)
        await replicas.exchange()
        others.others = None
        await replicas.exchange()
        assert replicas.failure == "the database is lost"
        counts = RolloutCounts(
            revision=NEW.revision, release=None, run=1, at=NOW + timedelta(seconds=90)
        )
        own = served_by(NEW).model_copy(update={"counts": counts})
        found = replicas.merge(own, NEW)
        assert found.revision == OLD.revision
        assert found.counts is not None
        assert found.counts.at == NOW
        others.others = []
        await replicas.exchange()
        assert replicas.failure == ""
        assert replicas.merge(own, NEW) == own


def two_are_known(replicas: Replicas) -> bool:
    return len(replicas.all()) == 2


def is_stored(artifacts: ArtifactStore) -> bool:
    return artifacts.get(DIGEST) is not None


class TestTwoServers:
    """Both real, on one PostgreSQL."""

    @pytest.fixture
    def both(self, tmp_path: Path, postgres_database: str) -> Iterator[tuple[Served, Served]]:
        options = {
            "database_url": postgres_database,
            "batch_seconds": 0.05,
            "heartbeat_seconds": 0.2,
            "refresh_seconds": 0.1,
        }
        with (
            serving(settings(tmp_path / "one", evidence=options)) as one,
            serving(settings(tmp_path / "two", evidence=options)) as two,
        ):
            for server in (one, two):
                server.wait(partial(two_are_known, server.server.replicas))
            yield one, two

    pytestmark = pytest.mark.servers

    def served(self, server: Served) -> ServedRollout:
        with httpx.Client(base_url=server.server.internal_url) as client:
            answer = client.get(f"/internal/v1/rollouts/{NAMESPACE}/thermostat")
        assert answer.status_code == 200
        return ServedRollout.model_validate(answer.json())

    async def test_a_revision_is_served_once_both_serve_it(
        self, both: tuple[Served, Served]
    ) -> None:
        one, two = both
        target = release("1.4.0", CONTENT)
        item = policy(target=target)
        one.source.add(CONTENT)
        one.apply(item)
        await until(lambda: one.server.artifacts.get(DIGEST) is not None)
        assert self.served(one).revision is None
        two.apply(item)
        await until(lambda: self.served(one).revision == item.revision)
        await until(lambda: self.served(two).revision == item.revision)
        # The bytes are missing on one of them.
        await until(lambda: not self.served(one).stored(DIGEST))
        two.source.add(CONTENT)
        await until(lambda: self.served(one).stored(DIGEST) and self.served(two).stored(DIGEST))
        one.apply(later := policy(target=target, sequence=1))
        assert self.served(one).revision == item.revision
        two.apply(later)
        await until(lambda: self.served(one).revision == later.revision)

    async def test_they_count_the_same_and_trip_together(self, both: tuple[Served, Served]) -> None:
        rule = FailureRule(max_percent=20, min_sample=4, action=FailureAction.PAUSE)
        ring = Ring(name="canary", open=True, failure=rule)
        names = [f"d{i}" for i in range(6)]
        item = policy(target=release("1.4.0", CONTENT), rings=(ring,))
        for server in both:
            server.source.add(CONTENT)
            server.apply(item, group("some", names=tuple(names)))
            server.wait(partial(is_stored, server.server.artifacts))

        def counts_are(server: Served, expected: tuple[int, ...]) -> bool:
            known = self.served(server).counts
            assert known is not None
            ring = known.ring("canary")
            return (ring.members, ring.in_flight, ring.failed, ring.failed_outcomes) == expected

        one, two = both
        for i, name in enumerate(names):
            server = both[i % 2]
            server.get(f"/version?device={name}&version=1.3.0")
            server.get(f"/firmware?device={name}")
        for server in both:
            await until(partial(counts_are, server, (6, 6, 0, 0)))
        # Two failures here and two there: neither server saw enough to trip by itself.
        for i, name in enumerate(names[:4]):
            body = {"device": name, "release": "1.4.0", "state": "Failed", "code": "boot"}
            both[i % 2].post("/api/v1/report", json.dumps(body).encode())
        await until(lambda: all(self.served(server).trip is not None for server in both))
        await until(lambda: self.served(one).trip == self.served(two).trip)
        for server in both:
            await until(partial(counts_are, server, (6, 2, 4, 4)))
            assert b"1.4.0" not in server.get("/version?device=late&version=1.3.0").body

    def test_each_tells_of_both(self, both: tuple[Served, Served]) -> None:
        told: list[list[str]] = []
        for server in both:
            with httpx.Client(base_url=server.server.internal_url) as client:
                listed = client.get("/internal/v1/replicas").json()
            assert all(entry["live"] for entry in listed)
            told.append([entry["name"] for entry in listed])
        assert len(told[0]) == 2
        assert told[0] == told[1]

    async def test_a_trip_is_known_after_a_restart(
        self, tmp_path: Path, postgres_database: str
    ) -> None:
        rule = FailureRule(max_percent=0, min_sample=1, action=FailureAction.PAUSE)
        ring = Ring(name="canary", open=True, failure=rule)
        options = settings(tmp_path, evidence={"database_url": postgres_database})
        with serving(options) as server:
            server.offer("1.4.0", CONTENT, rings=(ring,))
            server.apply(group("some", names=("a",)))
            server.get("/version?device=a&version=1.3.0")
            body = {"device": "a", "release": "1.4.0", "state": "Failed", "code": "boot"}
            server.post("/api/v1/report", json.dumps(body).encode())
            await until(lambda: self.served(server).trip is not None)
            trip = self.served(server).trip
        with serving(options) as server:
            await until(lambda: self.served(server).trip is not None)
            assert self.served(server).trip == trip
