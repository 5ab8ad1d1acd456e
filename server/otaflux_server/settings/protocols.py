"""Settings of single device protocols."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from otaflux_policy.devices import DEVICE_ID_PATTERN


class NativeSettings(BaseModel):
    """The native protocol (`/version`, `/firmware`)."""

    model_config = ConfigDict(extra="forbid")

    default_device: Annotated[str, Field(pattern=DEVICE_ID_PATTERN)] | None = Field(
        None,
        description="Device id of clients that send no `device` (firmware of May 2025 and older). "
        "Unset: they get 400.",
    )
