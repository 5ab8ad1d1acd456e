"""Limits of device connections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ConnectionSettings(BaseModel):
    """What a connection of a device may cost."""

    model_config = ConfigDict(extra="forbid")

    max_connections: Annotated[int, Field(ge=1)] = Field(
        20_000, description="Open connections at one time; further ones are closed at once."
    )
    request_seconds: Annotated[float, Field(gt=0)] = Field(
        20.0, description="A request must have come completely within this time."
    )
    idle_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="A connection without a request is closed after this time."
    )
    stall_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="A reader that takes no byte for this time is dropped."
    )
    response_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="A response that takes longer than this is dropped."
    )
    max_head_bytes: Annotated[int, Field(ge=512)] = Field(
        16 * 1024, description="Size of a request's head; a larger one gets 431."
    )
    max_body_bytes: Annotated[int, Field(ge=1)] = Field(
        64 * 1024, description="Size of a request's body; a larger one gets 413."
    )
