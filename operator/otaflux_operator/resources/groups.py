"""DeviceGroup: where devices get their labels from."""

from typing import Annotated, Literal

from pydantic import Field

from otaflux_operator.resources.bases import API_GROUP, API_VERSION, Metadata, ResourceModel
from otaflux_operator.resources.formats import DeviceName, LabelValue, Model
from otaflux_operator.resources.rules import Checked, Rule
from otaflux_operator.resources.selectors import LABEL_KEYS
from otaflux_operator.resources.statuses import GroupStatus

OWN_LABELS = Rule(
    cel=f"self.all(key, !key.startsWith('{API_GROUP}/'))",
    message=f"write another prefix: labels that begin with {API_GROUP}/ are given by OtaFlux "
    "itself",
    holds=lambda labels: not any(key.startswith(f"{API_GROUP}/") for key in labels),
)


class DeviceGroupSpec(ResourceModel):
    """The devices of a group and what it says of them."""

    names: Annotated[tuple[DeviceName, ...], Field(max_length=10_000)] = Field(
        description="Ids of the group's devices, and globs (* and ?, case-sensitive)."
    )
    labels: Annotated[
        dict[str, LabelValue], Field(max_length=32), Checked(LABEL_KEYS, OWN_LABELS)
    ] = Field(
        default={},
        description="Labels that the devices get. Where several groups give one label, the first "
        "group by name wins.",
    )
    model: Model | None = Field(
        default=None, description="Model of the devices that do not report one themselves."
    )


class DeviceGroup(ResourceModel):
    """Names devices and gives them labels, which rollouts and their rings select by."""

    api_version: Literal["otaflux.io/v1alpha1"] = API_VERSION
    kind: Literal["DeviceGroup"] = "DeviceGroup"
    metadata: Metadata
    spec: DeviceGroupSpec = Field(description="The devices, and what the group says of them.")
    status: GroupStatus = Field(
        default=GroupStatus(), description="How the group stands; written by the operator."
    )
