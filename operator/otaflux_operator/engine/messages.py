"""The message of a rollout: what it does or waits for, and what a person can do about it."""

from datetime import UTC, datetime

from otaflux_operator.engine.drafts import Draft, Standing
from otaflux_operator.engine.progress import ring_progress
from otaflux_operator.engine.rings import approved
from otaflux_operator.engine.situations import Situation
from otaflux_operator.resources import (
    ApprovalEffect,
    ConditionStatus,
    ConditionType,
    RingPhase,
)
from otaflux_policy.contract import State


def message(situation: Situation) -> str:
    """What the rollout does, why it waits, and what a person can do: a few sentences."""
    if (known := _stands(situation)) is not None:
        return known
    parts = [_now(situation), _next(situation), _windows(situation), _edits(situation)]
    return " ".join(part for part in parts if part)


def _stands(situation: Situation) -> str | None:
    """What it said before a restart, while nothing is known but that nothing changed."""
    ready, status = situation.stands(ConditionType.READY), situation.rollout.status
    if ready is None or ready.status is not ConditionStatus.TRUE or not status.message:
        return None
    draft = situation.draft
    same = (status.run, status.trip) == (draft.run, draft.trip) and not situation.writing
    return status.message if same and situation.stalled is None else None


def _now(situation: Situation) -> str:
    draft, state = situation.draft, situation.rollout.spec.state
    release = draft.release
    if release is None:
        match state:
            case State.PAUSED:
                return "Paused before anything was released."
            case State.ABORTED:
                return "Aborted before anything was released."
        return "Nothing is released yet." if situation.stalled else ""
    if draft.standing is Standing.ABORTED:
        return _aborted(draft, release.version)
    if state is State.ABORTED:
        return "spec.state is Aborted: devices are offered nothing."
    if draft.taken_back:
        text = _taken_back(situation, release.version)
    elif draft.standing is Standing.COMPLETED:
        text = f"{release.version} is released to every ring."
    elif situation.unpublishable is not None:
        text = f"{release.version} goes on as published."
    elif situation.failed is not None:
        text = f"{release.version} is stopped. {situation.failed.message}"
    elif draft.trip is not None:
        soon = "is about to be taken back"
        if draft.unsupported is not None:
            soon = "is not taken back yet"
        elif state is State.PAUSED:
            soon = "is taken back once spec.state is Active"
        text = f"{release.version} failed in ring {draft.trip.ring}, and {soon}."
    else:
        late = f" {situation.late.message}" if situation.late is not None else ""
        text = f"{release.version}: {_ring(situation, release.version)}{late}"
    return f"Paused: {text}" if state is State.PAUSED else text


def _aborted(draft: Draft, version: str) -> str:
    again = f"or change spec.retryToken to run {version} again."
    if draft.rollback is None:
        return f"{version} was aborted: with spec.state Active, release another version, {again}"
    to = draft.rollback.to
    return (
        f"The rollback of {version} to {to} was aborted: devices that still have {version} keep "
        f"it. With spec.state Active, release another version, let the artifact name {to}, {again}"
    )


def _taken_back(situation: Situation, version: str) -> str:
    draft, rollback = situation.draft, situation.draft.rollback
    stable = draft.stable.version if draft.stable else "the stable release"
    doing = "is being" if draft.standing is Standing.ROLLING_BACK else "was"
    text = f"{version} {doing} taken back"
    if rollback is None or rollback.devices is None:
        return f"{text}: devices that have it are offered {stable}."
    if not rollback.devices:
        return f"{text}: no known device has it."
    text += f": {rollback.restored or 0} of {rollback.devices} devices are back on {stable}"
    return f"{text}, {rollback.unconfirmed} unconfirmed." if rollback.unconfirmed else f"{text}."


def _ring(situation: Situation, version: str) -> str:
    draft, rings = situation.draft, situation.rollout.spec.rings
    if situation.reached is None:
        return "every ring is complete."
    ring, status = situation.reached
    place = f"ring {ring.name} ({rings.index(ring) + 1}/{len(rings)})"
    match status.phase:
        case RingPhase.AWAITING_APPROVAL:
            return (
                f"{place} waits for approval: add {{ring: {ring.name}, release: {version}}} to "
                "spec.approvals."
            )
        case RingPhase.PENDING:
            return f"{place} opens next."
    judgement = draft.judgements.get(ring.name)
    if judgement is None:
        return f"{place} is open, and completes once servers serve it."
    text = f"{place}: {ring_progress(situation, ring, status, judgement)}."
    if judgement.known or not situation.closed:
        return text
    return (
        f"{text} {{ring: {situation.closed[0]}, release: {version}, effect: Override}} in "
        "spec.approvals opens the next ring nevertheless."
    )


def _next(situation: Situation) -> str:
    draft, resolution = situation.draft, situation.observation.resolution
    objection = situation.objection
    if objection is not None:
        return objection.message
    if resolution.failure is not None:
        return f"The artifact could not be resolved: {resolution.failure.message}"
    if draft.candidate is not None:
        version = draft.candidate.version
        if situation.rollout.spec.state is not State.ACTIVE:
            return f"{version} waits until spec.state is Active."
        if problem := situation.failed_artifact():
            return f"{version} waits: the servers cannot store it ({problem})."
        return f"{version} starts once the servers stored it."
    answer = situation.observation.answer
    if answer.problem and answer.fresh(situation.now) is None:
        return f"The servers do not answer: {answer.problem}"
    if resolution.found is None and draft.release is None:
        return f"Looking up {_wanted(situation)}."
    return ""


def _windows(situation: Situation) -> str:
    opens = situation.opens_at
    if opens is None or situation.rollout.spec.state is not State.ACTIVE:
        return ""
    return f"Outside of its windows: no device starts before {_time(opens)}."


def _edits(situation: Situation) -> str:
    """What becomes of edits of rings that a run under way cannot follow."""
    draft, rollout = situation.draft, situation.rollout
    if not situation.is_live or draft.release is None or draft.trip is not None:
        return ""
    parts = []
    names = {ring.name for ring in rollout.spec.rings}
    gone = [
        ring.name
        for ring in draft.rings.values()
        if ring.name not in names and ring.phase in (RingPhase.OPEN, RingPhase.SOAKING)
    ]
    if gone:
        parts.append(
            f"{_were(gone)} open when removed: devices belong to the other rings now, and wait "
            "where theirs is closed."
        )
    if situation.reached is not None:
        reached = situation.reached[1]
        place = [ring.name for ring in rollout.spec.rings].index(reached.name)
        early = [
            ring.name
            for ring in rollout.spec.rings[place + 1 :]
            if (known := draft.rings.get(ring.name)) is not None
            and (opened := known.opened_at) is not None
            and (reached.opened_at is None or reached.opened_at > opened)
            and not approved(draft.release, rollout, ring.name, ApprovalEffect.OVERRIDE)
        ]
        if early:
            parts.append(
                f"{_were(early)} open before ring {reached.name} was put in front: that stays so, "
                f"and no other ring opens until {reached.name} is complete."
            )
    return " ".join(parts)


def _were(rings: list[str]) -> str:
    if len(rings) == 1:
        return f"Ring {rings[0]} was"
    return f"Rings {', '.join(rings[:-1])} and {rings[-1]} were"


def _wanted(situation: Situation) -> str:
    artifact = situation.rollout.spec.artifact
    if artifact.digest is not None:
        return f"{artifact.repository}@{artifact.digest}"
    if artifact.semver is not None:
        return f"the newest version in {artifact.semver!r} of {artifact.repository}"
    return f"{artifact.repository}:{artifact.tag}"


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
