"""The conditions that follow from what was decided, and what the rollout waits for."""

from otaflux_operator.conditions import Verdict
from otaflux_operator.engine import failures
from otaflux_operator.engine.deadlines import ENDED
from otaflux_operator.engine.drafts import ENDED_BADLY, Standing
from otaflux_operator.engine.judgements import Finding
from otaflux_operator.engine.outcomes import Waiting
from otaflux_operator.engine.signatures import verified
from otaflux_operator.engine.situations import Situation
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    ConditionStatus,
    ConditionType,
    Phase,
    RingPhase,
    RollbackCause,
)
from otaflux_policy.contract import SCHEMA_VERSION, State

_FINDINGS = {
    Finding.INCONCLUSIVE: Reason.INCONCLUSIVE,
    Finding.NO_DEVICES: Reason.NO_DEVICES,
    Finding.TOO_FEW_DEVICES: Reason.TOO_FEW_DEVICES,
}
_BACK = {
    Standing.ROLLING_BACK: "is being taken back",
    Standing.ROLLED_BACK: "was taken back",
    Standing.ABORTED: "stays: its rollback was aborted",
}
_RING_REASONS = frozenset(
    {*_FINDINGS.values(), Reason.SOAKING, Reason.OUTSIDE_WINDOW, Reason.PROGRESSING}
)


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
        verified(situation),
        served,
        _healthy(situation),
        _completed(situation),
    )


def phase(situation: Situation) -> Phase:
    """The phase; it also carries how the run ended, so nothing hides that."""
    draft, state = situation.draft, situation.rollout.spec.state
    if draft.standing in ENDED_BADLY:
        return Phase(draft.standing.value)
    if state is not State.ACTIVE:
        return Phase.ABORTED if state is State.ABORTED else Phase.PAUSED
    # Until another release takes its place, a run with a failed ring is none that goes on.
    if situation.stalled is not None or situation.failed is not None:
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
        Waiting.EVIDENCE: bool(draft.judgements) or draft.standing is Standing.ROLLING_BACK,
    }
    return frozenset(kind for kind, on in waits.items() if on) or frozenset({Waiting.NOTHING})


def _resolved(situation: Situation) -> Verdict:
    resolution, refused = situation.observation.resolution, situation.draft.refused
    type_ = ConditionType.ARTIFACT_RESOLVED
    if resolution.failure is not None:
        return Verdict(type_, False, resolution.failure.reason, resolution.failure.message)
    if (unverified := resolution.unverified) is not None:
        text = f"{unverified.version} is {unverified.digest}."
        return Verdict(type_, True, Reason.RESOLVED, text)
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
    if (why := situation.unpublishable) is not None:
        return Verdict(type_, False, why.reason, why.message)
    if situation.writing:
        return Verdict(type_, False, Reason.NOT_SERVED_YET, "The servers are about to read it.")
    if said is None:
        if not answer.problem:
            # A restart is no news: what they used when they were asked last stands until then.
            status = situation.rollout.status.policy
            known = situation.stands(type_)
            served = status is not None and status.served_revision == revision
            if served and known is not None and known.status is ConditionStatus.TRUE:
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
    rollback = draft.rollback if draft.standing is Standing.ROLLING_BACK else None
    failing = rollback is not None and rollback.cause is RollbackCause.FAILURE
    return Verdict(type_, not failing and draft.trip is None, progress(situation))


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
    if draft.trip is not None:
        return Reason.RING_FAILED
    return _ring_progress(situation)


def _ring_progress(situation: Situation) -> Reason:
    reached = situation.reached
    if reached is None:
        return Reason.PROGRESSING
    ring, status = reached
    judgement = situation.draft.judgements.get(ring.name)
    if judgement is not None and judgement.finding in _FINDINGS:
        known = situation.stands(ConditionType.READY)
        if not judgement.known and known is not None and known.reason in _RING_REASONS:
            return Reason(known.reason)
        return _FINDINGS[judgement.finding]
    if status.phase is RingPhase.SOAKING:
        return Reason.SOAKING
    if situation.opens_at is not None:
        return Reason.OUTSIDE_WINDOW
    return Reason.PROGRESSING


def _healthy(situation: Situation) -> Verdict:
    type_, draft, observation = ConditionType.HEALTHY, situation.draft, situation.observation
    if draft.release is None:
        return Verdict(type_, None, Reason.NOTHING_RELEASED, "Nothing was released yet.")
    if (rollback := draft.rollback) is not None and draft.standing in _BACK:
        failed = rollback.cause is RollbackCause.FAILURE
        text = f"{draft.release.version} {'failed and ' if failed else ''}{_BACK[draft.standing]}."
        return Verdict(type_, False if failed else None, progress(situation), text)
    if draft.trip is not None:
        text = failures.summary(draft, draft.trip, situation.rollout, observation, situation.now)
        return Verdict(type_, False, Reason.RING_FAILED, text)
    counted = observation.counted(draft.run, draft.release.digest, situation.now)
    known = situation.stands(type_)
    if known is not None and known.reason in (Reason.HEALTHY, Reason.INCONCLUSIVE):
        holds = known.status is ConditionStatus.TRUE or None
        return Verdict(type_, holds, Reason(known.reason), known.message)
    if counted.counts is None:
        text = f"Its devices cannot be judged now: {counted.problem}."
        return Verdict(type_, None, Reason.INCONCLUSIVE, text)
    total = counted.counts.total
    text = f"{total.updated} devices run it, {total.failed + total.timed_out} failed."
    return Verdict(type_, True, Reason.HEALTHY, text)


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
    rings = [draft.rings.get(ring.name) for ring in situation.rollout.spec.rings]
    done = sum(ring is not None and ring.phase in ENDED for ring in rings)
    message = f"{done} of {len(rings)} rings are complete."
    return Verdict(type_, False, progress(situation), message)
