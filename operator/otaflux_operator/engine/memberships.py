"""Whether counts are of the rings that the spec has by now."""

from typing import Any

from otaflux_operator.engine.compatibilities import compatibility
from otaflux_operator.resources import FirmwareRollout, ReleaseStatus
from otaflux_policy.contract import Policy


def is_as_published(rollout: FirmwareRollout, release: ReleaseStatus, published: Policy) -> bool:
    """Whether by the published policy the same devices are in the same rings, and count."""
    return _asked(rollout, release) == _published(published)


def _asked(rollout: FirmwareRollout, release: ReleaseStatus) -> list[Any]:
    spec = rollout.spec
    admitted = compatibility(spec, release)
    return [
        [
            (ring.name, ring.percent, ring.device_selector and ring.device_selector.model_dump())
            for ring in spec.rings
        ],
        spec.device_selector.model_dump(),
        (admitted.models, admitted.min_version),
        (spec.device_timeout.seconds, spec.active_within.seconds, spec.confirmation),
        spec.priority,
    ]


def _published(policy: Policy) -> list[Any]:
    return [
        [
            (ring.name, ring.percent, ring.selector and ring.selector.model_dump())
            for ring in policy.rings
        ],
        policy.device_selector.model_dump(),
        (policy.compatibility.models, policy.compatibility.min_version),
        (policy.device_timeout, policy.active_within, policy.confirmation),
        policy.priority,
    ]
