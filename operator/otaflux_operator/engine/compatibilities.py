"""Which devices a release is for: what the spec says, narrowed by what its manifest says."""

from otaflux_operator.engine.drafts import Objection
from otaflux_operator.engine.observations import Found
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import FirmwareRolloutSpec, ReleaseStatus
from otaflux_policy import versions
from otaflux_policy.contract import Compatibility

_NO_MODEL = ("\n",)
"""No model at all, where an empty list would be any: a device may not say that it is this one."""


def compatibility(spec: FirmwareRolloutSpec, release: ReleaseStatus | None) -> Compatibility:
    """That of the policy whose target is `release`: the models that both name, the higher version.

    Neither widens the other. Where they have no model in common no device is one of them.
    """
    wanted = spec.compatibility
    own = release.compatibility if release is not None else None
    if own is None:
        return Compatibility(models=wanted.models, min_version=wanted.min_version)
    return Compatibility(
        models=_common(wanted.models, own.listed),
        min_version=_higher(wanted.min_version, own.min_version),
    )


def excluded(spec: FirmwareRolloutSpec, found: Found) -> Objection | None:
    """Objects to a release that no device could get: it is for other models than the spec names."""
    if _common(spec.compatibility.models, found.models) != _NO_MODEL:
        return None
    return Objection(
        Reason.MODELS_EXCLUDED,
        f"{found.version} is for {', '.join(found.models)[:200]}, none of which "
        "spec.compatibility.models names: add one of them, or release firmware for those named.",
    )


def _common(wanted: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    if not wanted or not own:
        return wanted or own
    return tuple(model for model in wanted if model in own) or _NO_MODEL


def _higher(wanted: str | None, own: str | None) -> str | None:
    if wanted is None or own is None:
        return wanted or own
    return own if versions.compare(own, wanted) == 1 else wanted
