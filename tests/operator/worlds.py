"""A rollout, its registry and its servers in memory, step by step: what `advance` is asked of."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from otaflux_operator.engine import (
    Answer,
    Failure,
    Found,
    Observation,
    Outcome,
    Resolution,
    Waiting,
    advance,
)
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    Condition,
    FirmwareRollout,
    RolloutStatus,
    read_rollout,
)
from otaflux_policy.contract import Artifact, Policy
from otaflux_policy.counts import RingCounts, RolloutCounts, Trip
from otaflux_policy.served import ArtifactState, ServedArtifact, ServedRollout

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REPOSITORY = "registry.example.com/firmware/thermostat"
AT_ONCE: dict[str, Any] = {"success": {"minUpdatedPercent": 0, "minDevices": 0}}
"""A ring that asks for no evidence."""
UNJUDGED: list[dict[str, Any]] = [{"name": "canary", "percent": 10}, {"name": "fleet"}]


def digest(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def found(version: str, *, content: str = "", by_range: bool = False, **artifact: Any) -> Found:
    content = content or version
    fields = {
        "digest": digest(f"firmware {content}"),
        "size": 1000,
        "media_type": "application/octet-stream",
        "repository": REPOSITORY,
    }
    return Found(version, digest(content), Artifact(**fields | artifact), START, by_range)


def manifest(
    *, status: Mapping[str, Any] | None = None, uid: str = "uid-1", **spec: Any
) -> dict[str, Any]:
    rings = [{"name": "canary", "percent": 10, **AT_ONCE}, {"name": "fleet", **AT_ONCE}]
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {
            "name": "thermostat",
            "namespace": "home",
            "uid": uid,
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-03-01T11:00:00Z",
        },
        "spec": {
            "artifact": {"repository": REPOSITORY, "tag": "1.0.0"},
            "deviceSelector": {},
            "rings": rings,
        }
        | spec,
        "status": status or {},
    }


class World:
    """Reconciles one rollout as the operator does, with servers that do what they are told to.

    Every look also checks what must hold of every outcome.
    """

    def __init__(self, **spec: Any) -> None:
        self.manifest = manifest(**spec)
        self.now = START
        self.resolution = Resolution()
        self.published: Policy | None = None
        self.owner = ""
        self.answer = Answer()
        self.known_run = 0
        self.counts: dict[str, dict[str, int]] | None = {}
        """What servers count per ring, in whatever run; None: they have not read it yet."""
        self.trip: Trip | None = None
        self.writes = 0

    @property
    def rollout(self) -> FirmwareRollout:
        return read_rollout(self.manifest)

    @property
    def status(self) -> RolloutStatus:
        return self.rollout.status

    @property
    def policy(self) -> Policy:
        assert self.published is not None
        return self.published

    def condition(self, type_: str) -> Condition:
        return next(known for known in self.status.conditions if known.type == type_)

    def reason(self, type_: str) -> str:
        """`True/Reason` of a condition."""
        known = self.condition(type_)
        return f"{known.status}/{known.reason}"

    def rings(self) -> dict[str, str]:
        return {ring.name: str(ring.phase) for ring in self.status.rings}

    def open_rings(self) -> list[str]:
        return [ring.name for ring in self.policy.rings if ring.open]

    def history(self) -> list[tuple[int, str, str]]:
        return [(entry.run, entry.version, str(entry.result)) for entry in self.status.history]

    def spec(self, **changes: Any) -> None:
        """A person changes the spec; the resolution of another artifact is not known any more."""
        if (
            changes.get("artifact", self.manifest["spec"]["artifact"])
            != (self.manifest["spec"]["artifact"])
        ):
            self.resolution = Resolution()
        self.manifest["spec"] = self.manifest["spec"] | changes
        self.manifest["metadata"]["generation"] += 1

    def tag(self, tag: str, **artifact: Any) -> None:
        """A person wants another tag, and the registry has it."""
        self.spec(artifact={"repository": REPOSITORY, "tag": tag})
        self.resolves(found(tag, **artifact))

    def resolves(self, what: Found | None) -> None:
        self.resolution = Resolution(what)

    def fails(self, reason: Reason, message: str = "why", *, lasting: bool = False) -> None:
        self.resolution = replace(self.resolution, failure=Failure(reason, message, lasting))

    @property
    def observation(self) -> Observation:
        return Observation(
            resolution=self.resolution,
            published=self.published,
            mine=self.owner == self.rollout.metadata.uid,
            answer=self.answer,
        )

    def look(self) -> Outcome:
        """One reconciliation."""
        outcome = advance(self.rollout, self.observation, self.now, epoch=1)
        check(outcome)
        assert outcome.wake_at is None or outcome.wake_at > self.now
        before = self.published
        self.manifest["status"] = outcome.status.manifest()
        again = advance(self.rollout, self.observation, self.now, epoch=1)
        assert again.status.manifest() == outcome.status.manifest(), "not idempotent"
        assert again.policy == outcome.policy
        if outcome.policy is not None:
            if before is not None:
                assert (outcome.policy.epoch, outcome.policy.sequence) > (
                    before.epoch,
                    before.sequence,
                )
            self.published, self.owner = outcome.policy, self.rollout.metadata.uid
            self.writes += 1
        return outcome

    def serve(self, *, stored: bool = True, failed: str = "") -> None:
        """The servers take up what is published, and store its artifacts (or fail to)."""
        state = ArtifactState.STORED if stored else ArtifactState.FETCHING
        artifacts = [
            ServedArtifact(
                digest=release.firmware.digest,
                state=ArtifactState.FAILED if failed else state,
                reason="RegistryUnreachable" if failed else "",
                message=failed,
            )
            for release in self.policy.releases
        ]
        self.answer = Answer(
            ServedRollout(
                namespace="home",
                name="thermostat",
                revision=self.policy.revision,
                run=self.known_run,
                schema_versions=(1,),
                artifacts=tuple(artifacts),
                counts=self._counts(),
                trip=self.trip if self.trip and self.trip.run == self.policy.run else None,
            ),
            self.now,
        )

    def _counts(self) -> RolloutCounts | None:
        policy, counts = self.policy, self.counts
        if counts is None:
            return None
        return RolloutCounts(
            revision=policy.revision,
            release=policy.target.digest if policy.target is not None else None,
            run=policy.run,
            at=self.now,
            rings=tuple(
                RingCounts.model_validate({"name": ring.name} | counts.get(ring.name, {}))
                for ring in policy.rings
            ),
            unplaced=RingCounts.model_validate({"name": ""} | counts.get("", {})),
        )

    def settle(self) -> None:
        """Looks and serves until nothing changes any more."""
        for _ in range(20):
            writes, status, said = self.writes, self.manifest["status"], self.answer.said
            self.look()
            self.serve()
            if (writes, status, said) == (self.writes, self.manifest["status"], self.answer.said):
                return
            self.passes(1)
        raise AssertionError("it never settles")

    def release(self, version: str, **artifact: Any) -> None:
        """A version goes as far as it goes by itself."""
        self.tag(version, **artifact)
        self.settle()

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        """Time in which servers go on answering as before."""
        if (said := self.answer.said) is not None:
            if said.counts is not None:
                counts = said.counts.model_copy(update={"at": self.now})
                said = said.model_copy(update={"counts": counts})
            self.answer = replace(self.answer, said=said, at=self.now)


def under_way() -> World:
    """1.0.0 is stable, 1.1.0 in its first ring, as run 2."""
    world = World()
    world.release("1.0.0")
    world.spec(rings=UNJUDGED)
    world.release("1.1.0")
    assert (world.status.run, world.open_rings()) == (2, ["canary"])
    return world


def aborted() -> World:
    world = under_way()
    world.spec(state="Aborted")
    world.settle()
    return world


def taken_back() -> World:
    world = under_way()
    world.release("1.0.0")
    return world


def check(outcome: Outcome) -> None:
    """What holds of every outcome."""
    status = outcome.status
    final = status.phase in ("Completed", "RolledBack", "Aborted")
    assert outcome.waiting
    assert final or outcome.wake_at is not None or outcome.waiting != {Waiting.NOTHING}
    RolloutStatus.model_validate_json(status.model_dump_json())
    assert status.message
    types = [str(known.type) for known in status.conditions]
    assert types == [
        "Ready",
        "Reconciling",
        "Stalled",
        "ArtifactResolved",
        "Verified",
        "PolicyServed",
        "Healthy",
        "Completed",
    ]
    assert all(
        known.observed_generation == status.observed_generation for known in status.conditions
    )
    holds = {str(known.type): known.status == "True" for known in status.conditions}
    assert not (holds["Ready"] and (holds["Reconciling"] or holds["Stalled"]))
    assert not (holds["Reconciling"] and holds["Stalled"])
    policy = outcome.policy
    if policy is not None:
        assert policy.run == status.run
        open_ = {ring.name for ring in policy.rings if ring.open}
        assert policy.target is not None or not open_
