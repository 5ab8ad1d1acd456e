"""Fields of the spec whose behaviour does not exist yet."""

from otaflux_operator.engine.drafts import Objection
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import FirmwareRolloutSpec
from otaflux_policy.contract import Confirmation, Downgrade


def unsupported(spec: FirmwareRolloutSpec) -> Objection | None:
    """Objects to the fields that nothing acts upon yet, unless they have their default."""
    fields = [
        name
        for name, used in (
            ("verify", spec.verify is not None),
            ("windows", bool(spec.windows)),
            ("rollback", spec.rollback is not None),
            ("downgrade", spec.downgrade is not Downgrade.FORBID),
            ("confirmation", spec.confirmation is not Confirmation.AUTO),
        )
        if used
    ]
    if not fields:
        return None
    names = " and ".join(f"spec.{name}" for name in fields)
    return Objection(
        Reason.NOT_SUPPORTED,
        f"{names} cannot be acted upon yet: remove it. What is released stays as it is.",
    )
