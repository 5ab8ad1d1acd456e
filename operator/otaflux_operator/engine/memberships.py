"""Whether counts are of the rings that the spec has by now."""

from typing import Any

from otaflux_operator.resources import FirmwareRollout
from otaflux_policy.contract import Policy


def is_as_published(rollout: FirmwareRollout, published: Policy) -> bool:
    """Whether by the published policy the same devices are in the same rings, and count."""
    return _asked(rollout) == _published(published)


def _asked(rollout: FirmwareRollout) -> list[Any]:
    spec = rollout.spec
    return [
        [
            (ring.name, ring.percent, ring.device_selector and ring.device_selector.model_dump())
            for ring in spec.rings
        ],
        spec.device_selector.model_dump(),
        (spec.compatibility.models, spec.compatibility.min_version),
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
