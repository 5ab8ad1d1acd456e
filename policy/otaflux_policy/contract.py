"""The policy: all that the update server knows of a rollout, as the operator publishes it.

One ConfigMap per rollout holds `policy.json`, one per device group `group.json`, each in its
canonical form (`canonical.py`). Times are UTC, durations whole seconds, sizes bytes, digests
`sha256:<64 hex>`.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from otaflux_policy.models import ContractModel
from otaflux_policy.selectors import DeviceSelector
from otaflux_policy.windows import Window

SCHEMA_VERSION = 1
POLICY_KEY = "policy.json"
GROUP_KEY = "group.json"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "otaflux"
COMPONENT_LABEL = "otaflux.io/component"
POLICY_COMPONENT = "policy"
GROUP_COMPONENT = "group"
POLICY_LIMIT = 900 * 1024
"""The greatest size of a policy in bytes: a ConfigMap holds 1 MiB with all its metadata."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def policy_object_name(rollout: str) -> str:
    """The name of the ConfigMap that holds the policy of the rollout of this name."""
    return f"otaflux-policy-{rollout}"


def group_object_name(group: str) -> str:
    """The name of the ConfigMap that holds the device group of this name."""
    return f"otaflux-group-{group}"


class State(StrEnum):
    """Whether the run goes on (`spec.state`)."""

    ACTIVE = "Active"
    PAUSED = "Paused"
    ABORTED = "Aborted"


class Downgrade(StrEnum):
    """Whether a device may be offered a release older than what it runs."""

    FORBID = "Forbid"
    ALLOW = "Allow"


class Confirmation(StrEnum):
    """What counts as proof that a device runs a release."""

    AUTO = "Auto"
    REPORTED = "Reported"
    POLLED = "Polled"


class FailureAction(StrEnum):
    """What follows when a ring fails."""

    PAUSE = "Pause"
    ROLLBACK = "Rollback"


class Archive(ContractModel):
    """A tar archive in a repository, by its digest, and the path of one regular file in it."""

    digest: Digest
    size: Annotated[int, Field(ge=0)]
    media_type: str
    path: Annotated[str, Field(min_length=1, max_length=255)]


class Artifact(ContractModel):
    """One downloadable content of a release: a blob of `repository`, pulled by digest.

    With `archive` the blob is that, and the content a file in it; `digest` and `size` are those
    of the content either way. `models` are those that it is for (none: any), as the release says
    itself. `credentials` is the name of the entry in the credentials Secret that the pull needs.
    """

    kind: Literal["firmware"] = "firmware"
    models: tuple[str, ...] = ()
    digest: Digest
    size: Annotated[int, Field(ge=0)]
    media_type: str
    repository: str
    insecure: bool = False
    credentials: str | None = None
    archive: Archive | None = None


class Release(ContractModel):
    """A manifest digest, the version it bears, and what devices download of it.

    `min_version`: the oldest version from which it says that a device may be updated to it.
    """

    version: Annotated[str, Field(min_length=1, max_length=256)]
    digest: Digest
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=1)]
    min_version: Annotated[str, Field(max_length=128)] | None = None

    @property
    def firmware(self) -> Artifact:
        """The firmware image."""
        return self.artifacts[0]


class FailureRule(ContractModel):
    """Fails a ring once `failed / (updated + failed)` exceeds `max_percent`."""

    max_percent: int
    min_sample: int
    action: FailureAction


class Ring(ContractModel):
    """A part of the fleet; a device is in the first ring whose selector and percentage fit."""

    name: str
    selector: DeviceSelector | None = None
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    open: bool = False
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    failure: FailureRule | None = None


class Compatibility(ContractModel):
    """What a device must be for the rollout to match it."""

    models: tuple[str, ...] = ()
    min_version: str | None = None


class ReleaseRun(ContractModel):
    """A release and the run in which devices were offered it."""

    version: str
    digest: Digest
    run: int


class Policy(ContractModel):
    """One rollout's rules (`policy.json`).

    `target` is the run's release; None while nothing was released yet. `stable` is the release
    that every ring completed last; `candidate` is only to be fetched, so that it can become the
    target. `tripped`: the run's breaker is open, whatever the server counts. While
    `rolling_back`, `target` is the release that is taken back and `stable` the one that devices
    get instead. `(epoch, sequence)` grows with each write of one rollout.
    """

    schema_version: Literal[1] = 1
    revision: str = ""
    epoch: int = 0
    sequence: int = 0
    namespace: str
    name: str
    created_at: AwareDatetime
    priority: int = 0
    device_selector: DeviceSelector
    compatibility: Compatibility = Compatibility()
    run: int = 0
    target: Release | None = None
    stable: Release | None = None
    candidate: Release | None = None
    rings: tuple[Ring, ...] = ()
    state: State = State.ACTIVE
    tripped: bool = False
    rolling_back: bool = False
    rollback_from: tuple[ReleaseRun, ...] = ()
    downgrade: Downgrade = Downgrade.FORBID
    windows: tuple[Window, ...] = ()
    device_timeout: int
    active_within: int
    confirmation: Confirmation = Confirmation.AUTO

    @property
    def releases(self) -> tuple[Release, ...]:
        """Every release that servers must keep stored."""
        known = (self.target, self.stable, self.candidate)
        return tuple(release for release in known if release is not None)
