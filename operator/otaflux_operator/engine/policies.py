"""The policy that follows from what was decided."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

from otaflux_oci import OciError, Repository
from otaflux_operator.engine.compatibilities import compatibility
from otaflux_operator.engine.drafts import Draft, Standing
from otaflux_operator.engine.observations import Observation
from otaflux_operator.engine.support import windows
from otaflux_operator.epochs import GREATEST
from otaflux_operator.resources import FirmwareRollout, Phase, ReleaseStatus
from otaflux_operator.resources.rings import Ring as RingSpec
from otaflux_operator.resources.statuses import ReleaseArchive
from otaflux_policy import canonical
from otaflux_policy.contract import (
    POLICY_LIMIT,
    Archive,
    Artifact,
    FailureRule,
    Policy,
    Release,
    ReleaseRun,
    Ring,
    State,
)
from otaflux_policy.groups import Group
from otaflux_policy.windows import Window

ROLLBACK_FROM_LIMIT = 50
"""Runs since the stable release that a policy lists; the latest count."""

Content = TypeVar("Content", Policy, Group)

_UNWRITTEN = {"epoch": 0, "sequence": 0}
_NEVER = (Window(schedule="0 0 29 2 *", duration=1),)
"""Stands for windows that cannot be told: next to no time is as good as none."""

_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


def build(draft: Draft, rollout: FirmwareRollout, observation: Observation) -> Policy:
    """The policy, without epoch, sequence and revision."""
    spec = rollout.spec
    credentials = _Credentials(observation)
    ended = draft.standing is Standing.ABORTED
    return Policy(
        namespace=rollout.metadata.namespace,
        name=rollout.metadata.name,
        created_at=rollout.metadata.creation_timestamp or _EPOCH_START,
        priority=spec.priority,
        device_selector=spec.device_selector.contract(),
        compatibility=compatibility(spec, draft.release),
        run=draft.run,
        target=_release(draft.release, observation, credentials),
        stable=_release(draft.stable, observation, credentials),
        candidate=_release(draft.candidate, observation, credentials),
        rings=tuple(_ring(draft, ring) for ring in spec.rings),
        state=State.ABORTED if ended else spec.state,
        tripped=draft.trip is not None,
        rolling_back=draft.taken_back,
        rollback_from=_since_stable(draft, observation),
        downgrade=spec.downgrade,
        windows=_windows(rollout, observation),
        device_timeout=spec.device_timeout.seconds,
        active_within=spec.active_within.seconds,
        confirmation=spec.confirmation,
    )


def is_same(item: Content, other: Content) -> bool:
    """Whether both say the same, whenever they were written."""
    # By what is written: models also differ in which fields were set by hand.
    return canonical.revision(item.model_copy(update=_UNWRITTEN)) == canonical.revision(
        other.model_copy(update=_UNWRITTEN)
    )


def seal(item: Content, before: Content | None, epoch: int, now: datetime) -> Content:
    """The policy or group ready to be written after `before`.

    The sequence is the time in milliseconds where that is greater, so that it also grows where
    nothing tells what was written before.
    """
    previous = before.sequence if before is not None and before.epoch == epoch else 0
    sequence = min(max(previous + 1, int(now.timestamp() * 1000)), GREATEST)
    return canonical.seal(item.model_copy(update={"epoch": epoch, "sequence": sequence}))


def is_too_large(policy: Policy) -> bool:
    """Whether no ConfigMap can hold it."""
    return len(canonical.dumps(policy).encode()) > POLICY_LIMIT


class _Credentials:
    """Which entry of the credentials Secret the pull of an artifact needs.

    What the last resolution used serves all of its registry; for the rest, and while nothing
    is resolved, the published policy says it.
    """

    def __init__(self, observation: Observation) -> None:
        published, found = observation.published, observation.resolution.found
        self._known = {
            release.firmware.digest: release.firmware.credentials
            for release in (published.releases if published is not None else ())
        }
        self._entry = found.artifact.credentials if found else None
        self._registry = _registry(found.artifact.repository) if found else None

    def entry(self, digest: str, repository: str) -> str | None:
        if self._registry is not None and _registry(repository) == self._registry:
            return self._entry
        return self._known.get(digest)


def _registry(repository: str) -> str | None:
    try:
        return Repository.parse(repository).registry
    except OciError:
        return None


def _release(
    status: ReleaseStatus | None, observation: Observation, credentials: _Credentials
) -> Release | None:
    if status is None:
        return None
    if (known := status.artifact) is not None:
        own = status.compatibility
        artifact = Artifact(
            digest=known.digest,
            size=known.size,
            media_type=known.media_type,
            repository=known.repository,
            insecure=known.insecure,
            credentials=credentials.entry(known.digest, known.repository),
            archive=_archive(known.archive),
            models=own.listed if own is not None else (),
        )
        return Release(
            version=status.version,
            digest=status.digest,
            artifacts=(artifact,),
            min_version=own.min_version if own is not None else None,
        )
    published = observation.published
    for release in published.releases if published is not None and observation.mine else ():
        if release.digest == status.digest:
            return release
    return None


def _archive(known: ReleaseArchive | None) -> Archive | None:
    if known is None:
        return None
    return Archive(
        digest=known.digest, size=known.size, media_type=known.media_type, path=known.path
    )


def _ring(draft: Draft, ring: RingSpec) -> Ring:
    status = draft.rings.get(ring.name)
    return Ring(
        name=ring.name,
        selector=ring.device_selector.contract() if ring.device_selector is not None else None,
        percent=ring.percent,
        open=status is not None and status.opened_at is not None,
        max_concurrent=ring.max_concurrent,
        failure=FailureRule(
            max_percent=ring.failure.max_percent,
            min_sample=ring.failure.min_sample,
            action=ring.failure.action,
        ),
    )


def _windows(rollout: FirmwareRollout, observation: Observation) -> tuple[Window, ...]:
    """Those of the spec; where one of them is no window, those that are published."""
    asked = windows(rollout.spec)
    if asked is not None:
        return asked
    published = observation.published
    return published.windows if published is not None and observation.mine else _NEVER


def _ways_back(draft: Draft) -> set[int]:
    """The runs of the history that took a completed release back, in which nobody got it."""
    return {
        entry.run
        for entry, before in pairwise(draft.history)
        if (entry.digest, entry.result, before.result)
        == (before.digest, Phase.ROLLED_BACK, Phase.COMPLETED)
    }


def _since_stable(draft: Draft, observation: Observation) -> tuple[ReleaseRun, ...]:
    """The releases and runs since the stable release: what a rollback takes back."""
    if draft.standing is Standing.COMPLETED:
        return ()
    stable = draft.stable.digest if draft.stable is not None else None
    # A superseded one becomes stable by hand.
    ran = [
        entry.run
        for entry in draft.history
        if entry.result in (Phase.COMPLETED, Phase.SUPERSEDED) and entry.digest == stable
    ]
    since = max(ran, default=0)
    runs: dict[int, ReleaseRun] = {}
    published = observation.published
    if published is not None and observation.mine:
        runs = {known.run: known for known in published.rollback_from}
    ended = draft.stable.finished_at if draft.stable is not None else None
    back = _ways_back(draft)
    for entry in draft.history:
        if entry.run in back:
            continue
        # The entry that tells when stable completed may not be kept, older ones may.
        if ended is not None and entry.finished_at is not None and entry.finished_at < ended:
            continue
        # Without it, what completed came before for all that is known.
        if not ran and entry.result is Phase.COMPLETED:
            continue
        runs[entry.run] = ReleaseRun(version=entry.version, digest=entry.digest, run=entry.run)
    release = draft.release
    if release is not None and not draft.taken_back:
        runs[draft.run] = ReleaseRun(version=release.version, digest=release.digest, run=draft.run)
    later = [known for run, known in sorted(runs.items()) if run > since and known.digest != stable]
    return tuple(later[-ROLLBACK_FROM_LIMIT:])
