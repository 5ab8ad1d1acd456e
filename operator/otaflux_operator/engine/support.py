"""What the spec asks for and cannot be done: windows without sense."""

from pydantic import ValidationError

from otaflux_operator.engine.drafts import Objection
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import FirmwareRolloutSpec
from otaflux_policy.windows import Window


def unsupported(spec: FirmwareRolloutSpec) -> Objection | None:
    """Objects to what nothing can act upon; what is released stays as it is meanwhile."""
    for place, window in enumerate(spec.windows):
        try:
            window.contract()
        except ValidationError as error:
            why = "; ".join(_plain(problem["msg"]) for problem in error.errors())
            return Objection(
                Reason.INVALID_SPEC,
                f"spec.windows[{place}] can be no window: {why}. What is released stays as it is.",
            )
    return None


def windows(spec: FirmwareRolloutSpec) -> tuple[Window, ...] | None:
    """The windows as the policy carries them; None where one of them is no window."""
    try:
        return tuple(window.contract() for window in spec.windows)
    except ValidationError:
        return None


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")
