"""Rings and approvals of a FirmwareRollout."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from otaflux_operator.resources.bases import ResourceModel
from otaflux_operator.resources.durations import Duration, Span, SpanOrZero
from otaflux_operator.resources.formats import ReleaseReference, RingName
from otaflux_operator.resources.selectors import DeviceSelector
from otaflux_policy.contract import FailureAction


class Gate(StrEnum):
    """What opens a ring once the one before is complete."""

    AUTOMATIC = "Automatic"
    APPROVAL = "Approval"


class OnEmpty(StrEnum):
    """What becomes of a ring without devices."""

    WAIT = "Wait"
    SKIP = "Skip"


class ApprovalEffect(StrEnum):
    """What an approval does."""

    GATE = "Gate"
    OVERRIDE = "Override"


class Success(ResourceModel):
    """When a ring has succeeded."""

    min_updated_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=90,
        description="Share of the ring's active devices that must run the release, in percent.",
    )
    min_devices: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=1, description="Number of the ring's devices that must run the release."
    )


class Failure(ResourceModel):
    """When a ring has failed, and what follows."""

    max_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=20,
        description="Share of failed among updated and failed devices, in percent, above which "
        "the ring fails.",
    )
    min_sample: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=3,
        description="Number of devices, updated and failed, before the share is looked at.",
    )
    action: FailureAction = Field(
        default=FailureAction.PAUSE,
        description="What follows: Pause stops all offers, Rollback takes the devices back to the "
        "stable release.",
    )


class Ring(ResourceModel):
    """A part of the fleet; a device is in the first ring that fits."""

    name: RingName = Field(description="Name of the ring, unique in the rollout.")
    device_selector: DeviceSelector | None = Field(
        default=None,
        description="Devices of the ring, among those that the rollout selects. Absent or empty: "
        "every device.",
    )
    percent: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="Share of devices, in percent, counted from the start of the hash space: 10 "
        "in a ring and 30 in the next one means the first 10 % and the 20 % after them. Absent: "
        "every device.",
    )
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Number of devices that may be between offer and outcome at one time. "
        "Absent: no limit.",
    )
    gate: Gate = Field(
        default=Gate.AUTOMATIC,
        description="What opens the ring once the one before is complete: Automatic at once, "
        "Approval only with an entry in approvals.",
    )
    success: Success = Field(
        default=Success(), description="When the ring has succeeded and the next one may open."
    )
    failure: Failure = Field(
        default=Failure(), description="When the ring has failed, and what follows."
    )
    soak: SpanOrZero = Field(
        default=Duration("0s"),
        description="How long the success condition must hold before the ring is complete.",
    )
    deadline: Span | None = Field(
        default=None,
        description="How long after its opening the ring may take, not counting time while the "
        "rollout is paused or outside of its windows; past it the rollout stalls, it never "
        "advances. Absent: no limit.",
    )
    on_empty: OnEmpty = Field(
        default=OnEmpty.WAIT,
        description="What becomes of a ring without devices: Wait for one, or Skip the ring.",
    )

    @property
    def catches_all(self) -> bool:
        """Whether every device fits: no selector (or an empty one) and no percentage."""
        return self.percent is None and not self.selects

    @property
    def selects(self) -> bool:
        """Whether it has a selector with a part."""
        return self.device_selector is not None and not self.device_selector.selects_all


class Approval(ResourceModel):
    """A person's consent that a ring opens for one release."""

    # No format of its own: that an entry of rings has the name says more.
    ring: Annotated[str, Field(max_length=63)] = Field(description="Name of the ring.")
    release: ReleaseReference = Field(
        description="Version or manifest digest of the release; an approval never carries over "
        "to another one."
    )
    effect: ApprovalEffect = Field(
        default=ApprovalEffect.GATE,
        description="Gate permits the ring to open once the one before is complete; Override "
        "opens it although the one before is not.",
    )
