"""FirmwareRollout and DeviceGroup: the one definition of their fields, bounds and rules.

From these models come the CRDs in `deploy/crds/` and `docs/reference/fields.md`
(`scripts/generate`), and the checks that manifests meet where there is no API server.
"""

from otaflux_operator.resources.bases import API_GROUP, API_VERSION, VERSION, Metadata, timestamp
from otaflux_operator.resources.durations import Duration
from otaflux_operator.resources.groups import DeviceGroup, DeviceGroupSpec
from otaflux_operator.resources.manifests import (
    InvalidManifest,
    Problem,
    parse_group,
    parse_rollout,
    read_group,
    read_rollout,
)
from otaflux_operator.resources.rings import (
    Approval,
    ApprovalEffect,
    Failure,
    Gate,
    OnEmpty,
    Ring,
    Success,
)
from otaflux_operator.resources.rollouts import (
    Artifact,
    Compatibility,
    FirmwareRollout,
    FirmwareRolloutSpec,
    LayerSelector,
    Rollback,
    SecretReference,
    Verify,
    VerifyProvider,
    Window,
)
from otaflux_operator.resources.selectors import DeviceSelector, LabelRequirement
from otaflux_operator.resources.statuses import (
    Condition,
    ConditionStatus,
    ConditionType,
    GroupStatus,
    HistoryEntry,
    Phase,
    PolicyStatus,
    ReleaseStatus,
    RingPhase,
    RingStatus,
    RollbackCause,
    RollbackStatus,
    RolloutStatus,
    TripStatus,
)

__all__ = [
    "API_GROUP",
    "API_VERSION",
    "VERSION",
    "Approval",
    "ApprovalEffect",
    "Artifact",
    "Compatibility",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "DeviceGroup",
    "DeviceGroupSpec",
    "DeviceSelector",
    "Duration",
    "Failure",
    "FirmwareRollout",
    "FirmwareRolloutSpec",
    "Gate",
    "GroupStatus",
    "HistoryEntry",
    "InvalidManifest",
    "LabelRequirement",
    "LayerSelector",
    "Metadata",
    "OnEmpty",
    "Phase",
    "PolicyStatus",
    "Problem",
    "ReleaseStatus",
    "Ring",
    "RingPhase",
    "RingStatus",
    "Rollback",
    "RollbackCause",
    "RollbackStatus",
    "RolloutStatus",
    "SecretReference",
    "Success",
    "TripStatus",
    "Verify",
    "VerifyProvider",
    "Window",
    "parse_group",
    "parse_rollout",
    "read_group",
    "read_rollout",
    "timestamp",
]
