"""What the operator writes of a FirmwareRollout and a DeviceGroup: never edited by people.

Texts that come from elsewhere are cut to their bound, so that none can fail a status write.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from otaflux_operator.resources.bases import ResourceModel, Time
from otaflux_operator.resources.rules import Keyed

MESSAGE_LENGTH = 1024
HISTORY_LENGTH = 50


class Phase(StrEnum):
    """Where a rollout stands; `Superseded` only in its history."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    AWAITING_APPROVAL = "AwaitingApproval"
    PAUSED = "Paused"
    ABORTED = "Aborted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    COMPLETED = "Completed"
    SUPERSEDED = "Superseded"
    STALLED = "Stalled"


class RingPhase(StrEnum):
    """Where a ring stands in the run."""

    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    OPEN = "Open"
    SOAKING = "Soaking"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class ConditionType(StrEnum):
    """The conditions; the first three are those of kstatus."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ARTIFACT_RESOLVED = "ArtifactResolved"
    VERIFIED = "Verified"
    POLICY_SERVED = "PolicyServed"
    HEALTHY = "Healthy"
    COMPLETED = "Completed"
    LABEL_CONFLICT = "LabelConflict"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


def _cut(limit: int) -> Callable[[Any], Any]:
    def cut(text: Any) -> Any:
        return text[: limit - 1] + "…" if isinstance(text, str) and len(text) > limit else text

    return cut


Message = Annotated[str, Field(max_length=MESSAGE_LENGTH), BeforeValidator(_cut(MESSAGE_LENGTH))]
Reference = Annotated[str, Field(max_length=256), BeforeValidator(_cut(256))]
Name = Annotated[str, Field(max_length=253)]
Hash = Annotated[str, Field(max_length=71)]
Count = Annotated[int, Field(ge=0)]


class Condition(ResourceModel):
    """A condition as Kubernetes has them."""

    # Open in the CRD, so that an operator may be newer than the CRD.
    type: Annotated[ConditionType, WithJsonSchema({"type": "string", "maxLength": 64})] = Field(
        description="Kind of the condition."
    )
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    observed_generation: Count = Field(
        default=0, description="Generation of the object that the condition is about."
    )
    last_transition_time: Time = Field(description="When its status changed last.")
    reason: Annotated[
        str,
        Field(
            max_length=128,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        ),
    ] = Field(description="Why, in one word for programs.")
    message: Message = Field(default="", description="Why, in a sentence for people.")


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=16),
    Keyed("type"),
]


class ReleaseArchive(ResourceModel):
    """The tar archive that holds the firmware, and where in it."""

    digest: Hash = Field(description="Digest of the archive, which is a layer of an image.")
    size: Count = Field(description="Size of the archive in bytes.")
    media_type: Annotated[str, Field(max_length=255)] = Field(
        description="Media type of the archive."
    )
    path: Annotated[str, Field(max_length=255)] = Field(
        description="Path of the firmware in the archive."
    )


class ReleaseArtifact(ResourceModel):
    """What devices download of a release: a blob of a repository, by its digest."""

    digest: Hash = Field(description="Digest of the firmware's bytes.")
    size: Count = Field(description="Size of the firmware in bytes.")
    media_type: Annotated[str, Field(max_length=255)] = Field(
        description="Media type of the layer."
    )
    repository: Annotated[str, Field(max_length=255)] = Field(
        description="Repository that holds it."
    )
    insecure: bool = Field(default=False, description="Whether that registry speaks plain http.")
    archive: ReleaseArchive | None = Field(
        default=None,
        description="The archive that is pulled to get the firmware, where it is not a layer of "
        "its own.",
    )


class ReleaseCompatibility(ResourceModel):
    """What the release's manifest says of the devices that it is for."""

    models: Annotated[str, Field(max_length=1024)] = Field(
        default="",
        description="Models it is for, separated by commas (io.otaflux.models). Empty: any.",
    )
    min_version: Annotated[str, Field(max_length=128)] | None = Field(
        default=None,
        description="Oldest version from which a device may be updated to it "
        "(io.otaflux.min-version). Absent: any.",
    )

    @property
    def listed(self) -> tuple[str, ...]:
        """The models one by one."""
        return tuple(self.models.split(",")) if self.models else ()


class ReleaseVerification(ResourceModel):
    """The signature that spec.verify asks for."""

    key: Name = Field(description="Entry of the Secret with the key that signed.")
    at: Time = Field(description="When the signature was checked.")


class ReleaseStatus(ResourceModel):
    """A release: a manifest digest, the version it bears, and when it was what."""

    version: Reference = Field(description="Version of the release.")
    digest: Hash = Field(description="Manifest digest of the release.")
    size: Count | None = Field(default=None, description="Size of the firmware in bytes.")
    resolved_at: Time | None = Field(
        default=None, description="When the tag or range was resolved to it."
    )
    started_at: Time | None = Field(default=None, description="When its run began.")
    finished_at: Time | None = Field(default=None, description="When its run ended.")
    artifact: ReleaseArtifact | None = Field(
        default=None,
        description="The firmware itself, so that the policy can be written again without asking "
        "the registry.",
    )
    compatibility: ReleaseCompatibility | None = Field(
        default=None,
        description="What its manifest says of the devices that it is for; it narrows "
        "spec.compatibility.",
    )
    verification: ReleaseVerification | None = Field(
        default=None, description="Who signed it. Absent: that was not checked (spec.verify)."
    )


class RingStatus(ResourceModel):
    """How far a ring is in the current run."""

    name: Annotated[str, Field(max_length=63)] = Field(description="Name of the ring.")
    phase: RingPhase = Field(default=RingPhase.PENDING, description="Where the ring stands.")
    devices: Count | None = Field(default=None, description="Number of known devices in it.")
    offered: Count | None = Field(
        default=None, description="Number of its devices that were offered the release."
    )
    updated: Count | None = Field(
        default=None, description="Number of its devices that run the release."
    )
    failed: Count | None = Field(
        default=None, description="Number of its devices that failed or timed out."
    )
    opened_at: Time | None = Field(default=None, description="When the ring opened.")
    satisfied_at: Time | None = Field(
        default=None, description="Since when its success condition holds; the soak counts from it."
    )
    completed_at: Time | None = Field(default=None, description="When the ring was complete.")
    paused_seconds: Count = Field(
        default=0,
        description="How long its deadline stood still because the rollout was paused, in seconds "
        "within maintenance windows.",
    )


class PolicyStatus(ResourceModel):
    """The published policy."""

    config_map: Name = Field(default="", description="Name of the ConfigMap that holds it.")
    revision: Hash = Field(default="", description="Revision that the operator published.")
    served_revision: Hash = Field(
        default="", description="Revision that the update servers decide by."
    )


class HistoryEntry(ResourceModel):
    """A run that ended."""

    run: Count = Field(description="Number of the run.")
    version: Reference = Field(description="Version of its release.")
    digest: Hash = Field(description="Manifest digest of its release.")
    result: Phase = Field(description="Phase in which the run ended.")
    started_at: Time | None = Field(default=None, description="When the run began.")
    finished_at: Time | None = Field(default=None, description="When the run ended.")
    message: Message = Field(default="", description="How it ended, in a sentence.")
    artifact: ReleaseArtifact | None = Field(
        default=None, description="The firmware itself, so that spec.rollback can go back to it."
    )
    compatibility: ReleaseCompatibility | None = Field(
        default=None, description="What its manifest says of the devices that it is for."
    )


class TripStatus(ResourceModel):
    """The breaker of the run is open: a ring failed."""

    ring: Annotated[str, Field(max_length=63)] = Field(description="Name of the ring that failed.")
    failed: Count = Field(description="Number of its devices that had failed or timed out then.")
    updated: Count = Field(description="Number of its devices that had been updated then.")
    at: Time = Field(description="When the breaker opened.")


class RollbackCause(StrEnum):
    """Why a release is taken back."""

    FAILURE = "Failure"
    REVERT = "Revert"
    HAND = "Hand"


class RollbackStatus(ResourceModel):
    """The way back to a release, while and after it is taken."""

    cause: RollbackCause = Field(
        description="Why: Failure of a ring, Revert of the artifact, by Hand (spec.rollback)."
    )
    from_: Reference = Field(alias="from", description="Version of the release taken back.")
    to: Reference = Field(description="Version of the release that devices get instead.")
    started_at: Time = Field(description="When it began.")
    devices: Count | None = Field(
        default=None, description="Number of devices that have, or may have, the release."
    )
    restored: Count | None = Field(default=None, description="Number of them that came back.")
    unconfirmed: Count | None = Field(
        default=None, description="Number of them of which that was not known when it ended."
    )


class RolloutStatus(ResourceModel):
    """How far a FirmwareRollout is."""

    observed_generation: Count = Field(
        default=0, description="Generation of the object that the status is about."
    )
    phase: Phase = Field(default=Phase.PENDING, description="Where the rollout stands.")
    message: Message = Field(default="", description="What it does or waits for, in a sentence.")
    run: Count = Field(
        default=0, description="Number of the current run; every release, retry or rollback is one."
    )
    handled_retry_token: Annotated[str, Field(max_length=64)] = Field(
        default="", description="The spec.retryToken that was acted upon last."
    )
    current_ring: Annotated[str, Field(max_length=63)] = Field(
        default="", description="Name of the last ring that is open."
    )
    ring_summary: Annotated[str, Field(max_length=32)] = Field(
        default="", description="Open or ended rings of all rings: 2/3."
    )
    updated_summary: Annotated[str, Field(max_length=32)] = Field(
        default="",
        description="Devices that run the release of all known devices in open and ended rings: "
        "12/50.",
    )
    release: ReleaseStatus | None = Field(default=None, description="The current run's release.")
    stable_release: ReleaseStatus | None = Field(
        default=None, description="The last release of which every ring completed."
    )
    candidate: ReleaseStatus | None = Field(
        default=None,
        description="A release that was resolved and becomes the current one once it is verified "
        "and stored by the update servers.",
    )
    rings: Annotated[
        tuple[RingStatus, ...],
        Field(max_length=20),
        Keyed("name"),
    ] = Field(default=(), description="How far each ring is, in the order of the spec.")
    trip: TripStatus | None = Field(
        default=None, description="The ring that failed in this run; it stays until the run ends."
    )
    rollback: RollbackStatus | None = Field(
        default=None, description="The way back that the run is, or was."
    )
    paused_at: Time | None = Field(
        default=None, description="Since when the run is paused: deadlines stand still."
    )
    policy: PolicyStatus | None = Field(default=None, description="The published policy.")
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=HISTORY_LENGTH)] = Field(
        default=(), description="Runs that ended, the latest first."
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready, Reconciling and Stalled as kstatus has them; ArtifactResolved, "
        "Verified, PolicyServed, Healthy and Completed say more.",
    )


class GroupStatus(ResourceModel):
    """How a DeviceGroup stands."""

    observed_generation: Count = Field(
        default=0, description="Generation of the object that the status is about."
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready: the update servers have the group. LabelConflict: another group gives "
        "one of its devices another value; the first group by name wins.",
    )
