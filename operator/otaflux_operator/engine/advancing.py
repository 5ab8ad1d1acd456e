"""`advance`: from what is and what is known to what should be."""

from dataclasses import replace
from datetime import datetime

from otaflux_operator.conditions import Verdict, conditions
from otaflux_operator.engine import policies, releases, rollbacks, signatures
from otaflux_operator.engine.deadlines import ENDED, keep_pauses
from otaflux_operator.engine.drafts import Draft, Objection, Standing
from otaflux_operator.engine.inheriting import inherit
from otaflux_operator.engine.messages import message
from otaflux_operator.engine.observations import Observation
from otaflux_operator.engine.outcomes import Outcome
from otaflux_operator.engine.rings import advance_rings
from otaflux_operator.engine.situations import Situation
from otaflux_operator.engine.support import unsupported
from otaflux_operator.engine.trips import notice_failure
from otaflux_operator.engine.verdicts import judge, phase, waiting
from otaflux_operator.engine.waking import wake_at
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import (
    ConditionType,
    FirmwareRollout,
    PolicyStatus,
    RingStatus,
    RolloutStatus,
)
from otaflux_policy.contract import State, policy_object_name


def advance(
    rollout: FirmwareRollout, observation: Observation, now: datetime, *, epoch: int = 0
) -> Outcome:
    """What becomes of the rollout. Pure and total; on its own outcome it changes nothing.

    `now` is an aware time. Times are recorded in whole seconds, as a status holds them.
    """
    if observation.unpublishable:
        return _unpublishable(rollout, observation, now, epoch)
    second = now.replace(microsecond=0)
    observation = signatures.trusted(observation, rollout.spec)
    draft = Draft.of(rollout, second)
    draft.unsupported = unsupported(rollout.spec)
    inherit(draft, rollout, observation, second)
    keep_pauses(draft, rollout, second)
    releases.end_aborted(draft, rollout, second)
    rollbacks.by_hand(draft, rollout, observation, second)
    releases.choose_candidate(draft, rollout, observation, second)
    releases.return_to_stable(draft, rollout, observation, second)
    releases.promote(draft, rollout, observation, second)
    notice_failure(draft, observation, second)
    rollbacks.by_failure(draft, rollout, observation, second)
    draft.untrusted = signatures.objection(draft, observation.resolution)
    stable = draft.stable
    advance_rings(draft, rollout, observation, second)
    if draft.stable is not stable:
        # The run completed: what the artifact names may be older than what is stable now.
        draft.refused = None
        releases.choose_candidate(draft, rollout, observation, second)
    rollbacks.finish(draft, rollout, observation, second)
    policy = policies.build(draft, rollout, observation)
    if policies.is_too_large(policy):
        return _oversized(rollout, observation, now, epoch)
    return _outcome(Situation(rollout, draft, observation, policy, second), now, epoch)


def _unpublishable(
    rollout: FirmwareRollout, observation: Observation, now: datetime, epoch: int
) -> Outcome:
    """Nothing at all can be published: the status runs ahead of that in nothing but failures."""
    second = now.replace(microsecond=0)
    draft = Draft.of(rollout, second)
    notice_failure(draft, observation, second)
    published = observation.published if observation.mine else None
    objection = Objection(
        Reason.SIGNING_KEY_UNUSABLE,
        f"Nothing can be published: {observation.unpublishable}. What is published stays as it is.",
    )
    situation = Situation(rollout, draft, observation, published, second, unpublishable=objection)
    return _outcome(situation, now, epoch)


def _oversized(
    rollout: FirmwareRollout, observation: Observation, now: datetime, epoch: int
) -> Outcome:
    """Nothing that was decided can be published; a pause or an abort of what is published can."""
    second = now.replace(microsecond=0)
    draft = Draft.of(rollout, second)
    releases.end_aborted(draft, rollout, second)
    notice_failure(draft, observation, second)
    published = observation.published
    if published is not None and not observation.mine:
        # Of an object before this one, which hands nothing on.
        nothing = {"target": None, "stable": None, "candidate": None, "rollback_from": ()}
        published = published.model_copy(update=nothing | {"rings": (), "rolling_back": False})
        draft.run = max(draft.run, published.run)
    ended = draft.standing is Standing.ABORTED
    state = State.ABORTED if ended else rollout.spec.state
    policy = None
    if published is not None:
        stopped = published.tripped or draft.trip is not None
        policy = published.model_copy(update={"state": state, "tripped": stopped})
    objection = Objection(
        Reason.POLICY_TOO_LARGE,
        "The policy does not fit into a ConfigMap: shorten selectors, or let labels of "
        "DeviceGroups stand for lists of names. What is published stays as it is.",
    )
    return _outcome(
        Situation(rollout, draft, observation, policy, second, unpublishable=objection), now, epoch
    )


def _outcome(situation: Situation, now: datetime, epoch: int) -> Outcome:
    observation, policy = situation.observation, situation.policy
    published = observation.published if observation.mine else None
    if observation.damaged:
        published = None
    writing = False
    if policy is not None and published is not None and policies.is_same(policy, published):
        policy = published
    elif policy is not None and not observation.unpublishable:
        policy, writing = policies.seal(policy, observation.published, epoch, now), True
    situation = replace(situation, policy=policy, writing=writing)
    verdicts = tuple(
        replace(verdict, message=message(situation))
        if verdict.type is ConditionType.READY and not verdict.message
        else verdict
        for verdict in judge(situation)
    )
    return Outcome(
        status=_status(situation, verdicts),
        policy=policy if writing else None,
        wake_at=wake_at(situation, now),
        waiting=waiting(situation, verdicts),
    )


def _status(situation: Situation, verdicts: tuple[Verdict, ...]) -> RolloutStatus:
    draft, rollout, now = situation.draft, situation.rollout, situation.now
    metadata, before = rollout.metadata, rollout.status
    rings = [draft.rings[ring.name] for ring in rollout.spec.rings if ring.name in draft.rings]
    opened = [ring for ring in rings if ring.opened_at is not None or ring.phase in ENDED]
    said = situation.observation.answer.fresh(now)
    served = said.revision if said is not None else None
    return RolloutStatus(
        observed_generation=metadata.generation,
        phase=phase(situation),
        message=message(situation),
        run=draft.run,
        handled_retry_token=draft.handled_token,
        current_ring=opened[-1].name if opened else "",
        ring_summary=f"{len(opened)}/{len(rollout.spec.rings)}",
        updated_summary=_updated(draft, opened),
        release=draft.release,
        stable_release=draft.stable,
        candidate=draft.candidate,
        rings=tuple(draft.rings.values()),
        trip=draft.trip,
        rollback=draft.rollback,
        paused_at=draft.paused_at,
        policy=PolicyStatus(
            config_map=policy_object_name(metadata.name),
            revision=situation.revision or _last_revision(situation),
            served_revision=served or (before.policy.served_revision if before.policy else ""),
        ),
        history=draft.kept_history(rollout.spec.history_limit),
        conditions=conditions(before.conditions, verdicts, metadata.generation, now),
    )


def _last_revision(situation: Situation) -> str:
    """While nothing can be read or published: that which was."""
    before = situation.rollout.status.policy
    return before.revision if before is not None and situation.observation.unpublishable else ""


def _updated(draft: Draft, opened: list[RingStatus]) -> str:
    """How many devices have what they should, of those that may by now; empty: not known."""
    if draft.taken_back:
        rollback = draft.rollback
        if rollback is None or rollback.devices is None:
            return ""
        return f"{rollback.restored or 0}/{rollback.devices}"
    known = [ring for ring in opened if ring.devices is not None]
    if not known:
        return ""
    return f"{sum(ring.updated or 0 for ring in known)}/{sum(ring.devices or 0 for ring in known)}"
