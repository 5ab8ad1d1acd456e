"""The message of a rollout: what it does or waits for, and what a person can do about it."""

from otaflux_operator.engine.drafts import Standing
from otaflux_operator.engine.rings import ENDED
from otaflux_operator.engine.verdicts import Situation
from otaflux_operator.resources import Failure, RingPhase
from otaflux_policy.contract import State


def message(situation: Situation) -> str:
    """One to three sentences."""
    parts = [_now(situation), _next(situation), _idle(situation)]
    return " ".join(part for part in parts if part)


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
        return (
            f"{release.version} was aborted: release another version, or change spec.retryToken "
            "and set spec.state to Active to run it again."
        )
    if state is State.ABORTED:
        return "spec.state is Aborted: devices are offered nothing."
    if draft.taken_back:
        stable = draft.stable.version if draft.stable else "the stable release"
        doing = "is being" if draft.standing is Standing.ROLLING_BACK else "was"
        text = (
            f"{release.version} {doing} taken back: devices that have it are offered {stable}; "
            "how many run it is not counted yet."
        )
    elif draft.standing is Standing.COMPLETED:
        text = f"{release.version} is released to every ring."
    elif situation.oversized is not None:
        text = f"{release.version} goes on as published."
    else:
        text = f"{release.version}: {_rings(situation)}"
    return f"Paused: {text}" if state is State.PAUSED else text


def _rings(situation: Situation) -> str:
    draft, release = situation.draft, situation.draft.release
    assert release is not None
    rings = [draft.rings[ring.name] for ring in situation.rollout.spec.rings]
    reached = next((ring for ring in rings if ring.phase not in ENDED), None)
    if reached is None:
        return "every ring is complete."
    if reached.phase is RingPhase.AWAITING_APPROVAL:
        return (
            f"ring {reached.name} waits for approval: add "
            f"{{ring: {reached.name}, release: {release.version}}} to spec.approvals."
        )
    if reached.name in draft.inconclusive:
        later = [ring.name for ring in rings if ring.opened_at is None]
        hint = (
            f"; {{ring: {later[0]}, release: {release.version}, effect: Override}} in "
            "spec.approvals opens the next ring nevertheless"
            if later
            else ""
        )
        return f"ring {reached.name} is open; its success cannot be judged yet{hint}."
    if reached.phase is RingPhase.PENDING:
        return f"ring {reached.name} opens next."
    return f"ring {reached.name} is open, and completes once servers serve it."


def _idle(situation: Situation) -> str:
    """What the spec asks for and nothing acts upon before devices are counted."""
    draft, spec = situation.draft, situation.rollout.spec
    live = draft.standing is Standing.LIVE
    if draft.release is None or not (live or draft.standing is Standing.COMPLETED):
        return ""
    limited = [
        ring.name
        for ring in spec.rings
        if ring.max_concurrent is not None
        and (status := draft.rings.get(ring.name)) is not None
        and status.opened_at is not None
    ]
    parts = []
    if limited:
        parts.append(
            f"No device of {' and '.join(limited)} starts while maxConcurrent is set there, as "
            "devices are not counted yet: remove it to let them start."
        )
    ignored = [
        field
        for field, used in (
            ("deadline", any(ring.deadline is not None for ring in spec.rings)),
            ("failure", any(ring.failure != Failure() for ring in spec.rings)),
        )
        if used
    ]
    if ignored and live:
        parts.append(f"The {' and the '.join(ignored)} of rings cannot be acted upon yet.")
    return " ".join(parts)


def _next(situation: Situation) -> str:
    draft, resolution = situation.draft, situation.observation.resolution
    if (objection := situation.objection) is not None:
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


def _wanted(situation: Situation) -> str:
    artifact = situation.rollout.spec.artifact
    if artifact.digest is not None:
        return f"{artifact.repository}@{artifact.digest}"
    if artifact.semver is not None:
        return f"the newest version in {artifact.semver!r} of {artifact.repository}"
    return f"{artifact.repository}:{artifact.tag}"
