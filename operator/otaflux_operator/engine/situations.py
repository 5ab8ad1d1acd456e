"""What conditions, phase and message are told from."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from otaflux_operator.conditions import find
from otaflux_operator.engine import failures
from otaflux_operator.engine.deadlines import ENDED, overdue
from otaflux_operator.engine.drafts import Draft, Objection, Standing
from otaflux_operator.engine.observations import Observation, Resolution
from otaflux_operator.engine.releases import is_older
from otaflux_operator.engine.support import windows
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    Condition,
    ConditionStatus,
    ConditionType,
    FirmwareRollout,
    Ring,
    RingStatus,
)
from otaflux_policy.contract import Policy, State
from otaflux_policy.served import ArtifactState
from otaflux_policy.windows import opens_at


@dataclass(frozen=True)
class Situation:
    """Everything that conditions, phase and message are told from.

    `policy` is the one that is, or is about to be, published; `writing`: it is about to be;
    `unpublishable`: why the policy that would be right cannot be.
    """

    rollout: FirmwareRollout
    draft: Draft
    observation: Observation
    policy: Policy | None
    now: datetime
    writing: bool = False
    unpublishable: Objection | None = None

    @property
    def revision(self) -> str:
        """The revision of the policy; empty where there is none."""
        return self.policy.revision if self.policy is not None else ""

    @property
    def objection(self) -> Objection | None:
        """What a person has to put right in the object, if anything."""
        draft = self.draft
        return draft.unsupported or self.unpublishable or draft.refused or draft.unreachable

    @cached_property
    def stalled(self) -> Objection | None:
        """As `objection`; or what a person has to do elsewhere, or ended on purpose."""
        draft, failure = self.draft, self.observation.resolution.failure
        if (wrong := draft.unsupported or self.unpublishable) is not None:
            return wrong
        if self.failed is not None and draft.candidate is None and not self._may_go_on:
            return self.failed
        if (objection := self.objection or draft.untrusted) is not None:
            return objection
        if self.is_aborted and draft.candidate is None and not self._may_go_on:
            return Objection(
                Reason.ABORTED,
                "The run was aborted: with spec.state Active, release another version, or change "
                "spec.retryToken."
                if draft.standing is Standing.ABORTED
                else "Nothing is offered until spec.state is Active.",
            )
        if self.late is not None and draft.candidate is None:
            return self.late
        if failure is not None and failure.lasting:
            return Objection(failure.reason, failure.message)
        return None

    @cached_property
    def failed(self) -> Objection | None:
        """Which ring of the run failed, unless that is about to be answered by a rollback."""
        return failures.objection(self.draft, self.rollout, self.observation, self.now)

    @cached_property
    def late(self) -> Objection | None:
        """Which rings are past their deadline."""
        rings = overdue(self.draft, self.rollout, self.now)
        if not rings or self.draft.trip is not None:
            return None
        ways = "write a longer deadline, or release another version"
        if self.closed:
            ways = (
                "write a longer deadline, release another version, or open the next ring with an "
                "approval that has the effect Override"
            )
        texts = [f"ring {ring.name} is past its deadline of {ring.deadline}" for ring in rings]
        text = " and ".join(texts)
        return Objection(
            Reason.DEADLINE_EXCEEDED,
            f"{text[0].upper()}{text[1:]}: its devices may still update; find out why they do not, "
            f"{ways}.",
        )

    @property
    def is_aborted(self) -> bool:
        """Whether the run was aborted, or the state keeps devices from being offered anything."""
        aborted = self.rollout.spec.state is State.ABORTED
        return aborted or self.draft.standing is Standing.ABORTED

    @property
    def is_live(self) -> bool:
        """Whether a run is under way."""
        return self.draft.release is not None and self.draft.standing is Standing.LIVE

    @property
    def _may_go_on(self) -> bool:
        """Whether what the spec asks for, as yet unknown, may be another release."""
        resolution, active = self.observation.resolution, self.rollout.spec.state is State.ACTIVE
        known = self.previous(ConditionType.ARTIFACT_RESOLVED)
        asked = known is not None and known.status is ConditionStatus.TRUE
        return active and resolution == Resolution() and not asked

    @property
    def is_current(self) -> bool | None:
        """Whether what the spec asks for is what is released; None while that is unknown."""
        resolution, draft = self.observation.resolution, self.draft
        found = resolution.found
        named = resolution.unverified or found
        if named is None:
            return None
        wanted = draft.stable if draft.taken_back else draft.release
        if wanted is not None and named.digest == wanted.digest:
            return True
        if found is None or not found.by_range:
            return False
        return draft.candidate is None and is_older(found, draft.release)

    @property
    def reached(self) -> tuple[Ring, RingStatus] | None:
        """The first ring of the run that has not ended; None where all have."""
        for ring in self.rollout.spec.rings:
            status = self.draft.rings.get(ring.name)
            if status is not None and status.phase not in ENDED:
                return ring, status
        return None

    @property
    def closed(self) -> list[str]:
        """The rings that were not opened in this run, by name."""
        rings = self.draft.rings
        return [
            ring.name
            for ring in self.rollout.spec.rings
            if (known := rings.get(ring.name)) is None or known.opened_at is None
        ]

    @cached_property
    def opens_at(self) -> datetime | None:
        """When devices of the run may start again; None where they may now."""
        if not self.is_live or self.draft.trip is not None:
            return None
        return opens_at(windows(self.rollout.spec) or (), self.now)

    def previous(self, type_: ConditionType) -> Condition | None:
        """The condition as it is, if it is about this generation of the object."""
        known = find(self.rollout.status.conditions, type_)
        generation = self.rollout.metadata.generation
        return known if known and known.observed_generation == generation else None

    def stands(self, type_: ConditionType) -> Condition | None:
        """The condition as it was, while servers were not asked since a restart: no news."""
        answer = self.observation.answer
        return self.previous(type_) if answer.at is None and not answer.problem else None

    def failed_artifact(self) -> str:
        """Why servers could not store what the policy lists; empty where nothing failed."""
        said = self.observation.answer.fresh(self.now)
        for artifact in said.artifacts if said is not None else ():
            if artifact.state is ArtifactState.FAILED:
                return (
                    f"{artifact.reason}: {artifact.message}"
                    if artifact.message
                    else (artifact.reason or "unknown reason")
                )
        return ""
