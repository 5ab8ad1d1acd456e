"""The conditions that follow from what was decided, and what the rollout waits for."""

from dataclasses import dataclass
from datetime import datetime

from otaflux_operator.conditions import Verdict, find
from otaflux_operator.engine.drafts import Draft, Objection, Standing
from otaflux_operator.engine.observations import Observation, Resolution
from otaflux_operator.engine.outcomes import Waiting
from otaflux_operator.engine.releases import is_older
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    Condition,
    ConditionStatus,
    ConditionType,
    FirmwareRollout,
    Phase,
    RingPhase,
)
from otaflux_policy.contract import SCHEMA_VERSION, Policy, State
from otaflux_policy.served import ArtifactState

NOT_COUNTED = (
    "What devices do is not counted yet: no ring fails, runs into its deadline or soaks, and one "
    "with maxConcurrent starts nobody."
)


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that conditions, phase and message are told from.

    `policy` is the one that is, or is about to be, published; `writing`: it is about to be;
    `oversized` stands for the policy that would be right but is too large.
    """

    rollout: FirmwareRollout
    draft: Draft
    observation: Observation
    policy: Policy | None
    now: datetime
    writing: bool = False
    oversized: Objection | None = None

    @property
    def revision(self) -> str:
        """The revision of the policy; empty where there is none."""
        return self.policy.revision if self.policy is not None else ""

    @property
    def objection(self) -> Objection | None:
        """What a person has to put right in the object, if anything."""
        return self.draft.unsupported or self.oversized or self.draft.refused

    @property
    def stalled(self) -> Objection | None:
        """As `objection`; or what a person has to do elsewhere, or ended on purpose."""
        failure = self.observation.resolution.failure
        if self.objection is not None:
            return self.objection
        if self.is_aborted and self.draft.candidate is None and not self._may_go_on:
            return Objection(
                Reason.ABORTED,
                "The run was aborted: release another version, or change spec.retryToken."
                if self.draft.standing is Standing.ABORTED
                else "Nothing is offered until spec.state is Active.",
            )
        if failure is not None and failure.lasting:
            return Objection(failure.reason, failure.message)
        return None

    @property
    def is_aborted(self) -> bool:
        """Whether the run was aborted, or the state keeps devices from being offered anything."""
        aborted = self.rollout.spec.state is State.ABORTED
        return aborted or self.draft.standing is Standing.ABORTED

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
        found, draft = self.observation.resolution.found, self.draft
        if found is None:
            return None
        wanted = draft.stable if draft.taken_back else draft.release
        if wanted is not None and found.digest == wanted.digest:
            return True
        return found.by_range and draft.candidate is None and is_older(found, draft.release)

    def previous(self, type_: ConditionType) -> Condition | None:
        """The condition as it is, if it is about this generation of the object."""
        known = find(self.rollout.status.conditions, type_)
        generation = self.rollout.metadata.generation
        return known if known and known.observed_generation == generation else None

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


def judge(situation: Situation) -> tuple[Verdict, ...]:
    """All conditions."""
    resolved = _resolved(situation)
    served = _served(situation)
    stalled = situation.stalled
    reconciling = _reconciling(situation, resolved, served)
    return (
        _ready(situation, served, reconciling),
        reconciling
        or Verdict(
            ConditionType.RECONCILING, False, Reason.SETTLED, "The operator has nothing to do."
        ),
        Verdict(ConditionType.STALLED, True, stalled.reason, stalled.message)
        if stalled is not None
        else Verdict(ConditionType.STALLED, False, Reason.NOT_STALLED, "Nobody needs to act."),
        resolved,
        Verdict(ConditionType.VERIFIED, None, Reason.NOT_CONFIGURED, "Signatures are not checked."),
        served,
        _healthy(situation),
        _completed(situation),
    )


def phase(situation: Situation) -> Phase:
    """The phase; it also carries how the run ended, so nothing hides that."""
    draft, state = situation.draft, situation.rollout.spec.state
    ended = {
        Standing.ABORTED: Phase.ABORTED,
        Standing.ROLLING_BACK: Phase.ROLLING_BACK,
        Standing.ROLLED_BACK: Phase.ROLLED_BACK,
    }.get(draft.standing)
    if ended is not None:
        return ended
    if state is not State.ACTIVE:
        return Phase.ABORTED if state is State.ABORTED else Phase.PAUSED
    if situation.stalled is not None:
        return Phase.STALLED
    if draft.release is None:
        return Phase.PENDING
    if draft.standing is Standing.COMPLETED:
        return Phase.COMPLETED
    if any(ring.phase is RingPhase.AWAITING_APPROVAL for ring in draft.rings.values()):
        return Phase.AWAITING_APPROVAL
    return Phase.PROGRESSING


def waiting(situation: Situation, verdicts: tuple[Verdict, ...]) -> frozenset[Waiting]:
    """What can change the outcome, beside the spec and time; never empty."""
    draft, resolution = situation.draft, situation.observation.resolution
    served = next(v for v in verdicts if v.type is ConditionType.POLICY_SERVED)
    active = situation.rollout.spec.state is State.ACTIVE
    waits = {
        Waiting.REGISTRY: resolution.found is None or resolution.failure is not None,
        Waiting.SERVERS: served.holds is not True
        or (draft.candidate is not None and active and draft.unsupported is None),
        Waiting.PERSON: situation.stalled is not None
        or not active
        or phase(situation) is Phase.AWAITING_APPROVAL,
        Waiting.EVIDENCE: bool(draft.inconclusive),
    }
    return frozenset(kind for kind, on in waits.items() if on) or frozenset({Waiting.NOTHING})


def _resolved(situation: Situation) -> Verdict:
    resolution, refused = situation.observation.resolution, situation.draft.refused
    type_ = ConditionType.ARTIFACT_RESOLVED
    if resolution.failure is not None:
        return Verdict(type_, False, resolution.failure.reason, resolution.failure.message)
    if refused is not None:
        return Verdict(type_, False, refused.reason, refused.message)
    if (found := resolution.found) is not None:
        return Verdict(type_, True, Reason.RESOLVED, f"{found.version} is {found.digest}.")
    known = situation.previous(type_)
    if known is not None and known.status is ConditionStatus.TRUE:
        return Verdict(type_, True, Reason.RESOLVED, known.message)
    return Verdict(type_, None, Reason.RESOLVING, "The registry is being asked.")


def _served(situation: Situation) -> Verdict:
    type_, revision = ConditionType.POLICY_SERVED, situation.revision
    answer = situation.observation.answer
    said = answer.fresh(situation.now)
    if situation.oversized is not None:
        return Verdict(type_, False, situation.oversized.reason, situation.oversized.message)
    if situation.writing:
        return Verdict(type_, False, Reason.NOT_SERVED_YET, "The servers are about to read it.")
    if said is None:
        if not answer.problem:
            # A restart is no news: what they used when they were asked last stands until then.
            known, status = situation.previous(type_), situation.rollout.status.policy
            stands = (
                answer.at is None
                and known is not None
                and known.status is ConditionStatus.TRUE
                and status is not None
                and status.served_revision == revision
            )
            if stands:
                return Verdict(type_, True, Reason.SERVED, f"The servers use {revision}.")
            return Verdict(type_, None, Reason.NOT_SERVED_YET, "The servers are being asked.")
        return Verdict(type_, None, Reason.SERVER_UNREACHABLE, answer.problem)
    if said.revision == revision:
        return Verdict(type_, True, Reason.SERVED, f"The servers use {revision}.")
    if said.schema_versions and SCHEMA_VERSION not in said.schema_versions:
        versions = ", ".join(map(str, said.schema_versions))
        return Verdict(
            type_,
            False,
            Reason.SCHEMA_UNSUPPORTED,
            f"The policy is of version {SCHEMA_VERSION}, the servers read {versions}: update them.",
        )
    if said.rejected:
        return Verdict(type_, False, Reason.POLICY_REJECTED, f"Refused: {said.rejected}")
    return Verdict(
        type_, False, Reason.NOT_SERVED_YET, f"The servers use {said.revision or 'no policy'} yet."
    )


def _reconciling(situation: Situation, resolved: Verdict, served: Verdict) -> Verdict | None:
    type_, draft = ConditionType.RECONCILING, situation.draft
    failure = situation.observation.resolution.failure
    if situation.stalled is not None:
        return None
    if resolved.holds is None:
        return Verdict(type_, True, Reason.RESOLVING, "The artifact is being looked up.")
    if failure is not None:
        return Verdict(type_, True, failure.reason, failure.message)
    if draft.candidate is not None and situation.rollout.spec.state is State.ACTIVE:
        version = draft.candidate.version
        if problem := situation.failed_artifact():
            return Verdict(
                type_, True, Reason.ARTIFACT_NOT_STORED, f"The servers cannot store it: {problem}"
            )
        return Verdict(type_, True, Reason.STORING_ARTIFACT, f"The servers are storing {version}.")
    if situation.writing:
        return Verdict(type_, True, Reason.PUBLISHING, "The policy is being written.")
    status = situation.rollout.status.policy
    if served.holds is False or (
        served.holds is None and (status is None or status.served_revision != situation.revision)
    ):
        return Verdict(type_, True, Reason.WAITING_FOR_SERVERS, served.message)
    return None


def _ready(situation: Situation, served: Verdict, reconciling: Verdict | None) -> Verdict:
    type_, draft = ConditionType.READY, situation.draft
    if (stalled := situation.stalled) is not None:
        return Verdict(type_, False, stalled.reason, stalled.message)
    if reconciling is not None:
        return Verdict(type_, False, reconciling.reason, reconciling.message)
    if draft.candidate is not None:
        state = situation.rollout.spec.state
        reason = Reason.PAUSED if state is State.PAUSED else Reason.ABORTED
        return Verdict(type_, False, reason, f"{draft.candidate.version} waits for state Active.")
    if draft.release is None:
        return Verdict(type_, False, Reason.NOTHING_RELEASED, "Nothing was released yet.")
    if served.holds is not True:
        return Verdict(type_, served.holds, served.reason, served.message)
    return Verdict(type_, True, progress(situation))


def progress(situation: Situation) -> Reason:
    """How far the run is, in a word."""
    draft = situation.draft
    if draft.release is None:
        return Reason.NOTHING_RELEASED
    match phase(situation):
        case Phase.PAUSED:
            return Reason.PAUSED
        case Phase.ABORTED:
            return Reason.ABORTED
        case Phase.ROLLING_BACK:
            return Reason.ROLLING_BACK
        case Phase.ROLLED_BACK:
            return Reason.ROLLED_BACK
        case Phase.AWAITING_APPROVAL:
            return Reason.AWAITING_APPROVAL
    if draft.standing is Standing.COMPLETED:
        return Reason.COMPLETED
    return Reason.INCONCLUSIVE if draft.inconclusive else Reason.PROGRESSING


def _healthy(situation: Situation) -> Verdict:
    type_ = ConditionType.HEALTHY
    if situation.draft.release is None:
        return Verdict(type_, None, Reason.NOTHING_RELEASED, "Nothing was released yet.")
    return Verdict(type_, None, Reason.INCONCLUSIVE, NOT_COUNTED)


def _completed(situation: Situation) -> Verdict:
    type_, draft = ConditionType.COMPLETED, situation.draft
    current = situation.is_current
    if draft.standing is Standing.COMPLETED and draft.release is not None:
        known = situation.previous(type_)
        if current or (current is None and known and known.status is ConditionStatus.TRUE):
            message = f"{draft.release.version} is released to every ring."
            return Verdict(type_, True, Reason.COMPLETED, message)
        if current is None:
            message = "Whether the artifact is what is released is not known yet."
            return Verdict(type_, False, Reason.RESOLVING, message)
        message = f"{draft.release.version} completed, but is not what the artifact names now."
        return Verdict(type_, False, Reason.PROGRESSING, message)
    if draft.release is None:
        return Verdict(type_, False, Reason.NOTHING_RELEASED, "Nothing was released yet.")
    done = sum(ring.phase is RingPhase.COMPLETE for ring in draft.rings.values())
    message = f"{done} of {len(draft.rings)} rings are complete."
    return Verdict(type_, False, progress(situation), message)
