"""What `spec.verify` found: the condition `Verified`, and whether the release may go further."""

from dataclasses import replace

from otaflux_operator.conditions import Verdict
from otaflux_operator.engine.drafts import Draft, Objection
from otaflux_operator.engine.observations import Observation, Resolution
from otaflux_operator.engine.situations import Situation
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import ConditionStatus, ConditionType, FirmwareRolloutSpec


def trusted(observation: Observation, spec: FirmwareRolloutSpec) -> Observation:
    """What is known, without what `spec.verify` asks a proof for and has none."""
    resolution = observation.resolution
    found = resolution.found
    if spec.verify is None or found is None or found.proof is not None:
        return observation
    return replace(observation, resolution=replace(resolution, found=None))


def objection(draft: Draft, resolution: Resolution) -> Objection | None:
    """Objects to the current release where it does not verify by the keys as they are now.

    Devices keep what they have and open rings go on, as for what is released; none opens any more.
    """
    release = draft.release
    for found in (resolution.unverified, resolution.current):
        if found is not None and release is not None and found.digest == release.digest:
            return Objection(
                found.reason,
                f"{release.version} is released and does not verify any more: {found.message} "
                "No further ring opens.",
            )
    return None


def verified(situation: Situation) -> Verdict:
    """Whether what the artifact names may be released, and what is released stays trusted."""
    type_, resolution = ConditionType.VERIFIED, situation.observation.resolution
    if situation.rollout.spec.verify is None:
        return Verdict(type_, None, Reason.NOT_CONFIGURED, "Signatures are not checked.")
    unverified, untrusted = resolution.unverified, situation.draft.untrusted
    release = situation.draft.release
    if unverified is not None and (release is None or unverified.digest != release.digest):
        text = f"{unverified.message} {untrusted.message}" if untrusted else unverified.message
        return Verdict(type_, False, unverified.reason, text)
    if untrusted is not None:
        return Verdict(type_, False, untrusted.reason, untrusted.message)
    failure = resolution.failure
    if failure is not None and failure.reason is Reason.VERSION_MISMATCH:
        return Verdict(type_, False, failure.reason, failure.message)
    found = resolution.found
    if found is not None and found.proof is not None:
        text = f"{found.version} ({found.digest}) is signed by {found.proof.key}."
        return Verdict(type_, True, Reason.VERIFIED, text)
    if failure is not None:
        text = f"Nothing is verified: {failure.message}"
        if resolution.doubtful and release is not None:
            text = f"{text} Until then no further ring of {release.version} opens."
        return Verdict(type_, None, failure.reason, text)
    known = situation.previous(type_)
    if known is not None and known.status is ConditionStatus.TRUE:
        return Verdict(type_, True, Reason.VERIFIED, known.message)
    return Verdict(type_, None, Reason.VERIFYING, "The signature is being looked for.")
