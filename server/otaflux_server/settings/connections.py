"""Limits of device connections."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ConnectionSettings(BaseModel):
    """What a connection of a device may cost."""

    model_config = ConfigDict(extra="forbid")

    max_connections: Annotated[int, Field(ge=1)] = Field(
        20_000, description="Open connections at one time; further ones are closed at once."
    )
    max_connections_per_address: Annotated[int, Field(ge=1)] = Field(
        1000,
        description="Open connections of one address (IPv6: of one /64) at one time; further ones "
        "are closed at once. Not for `shared_addresses`.",
    )
    shared_addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks of proxies and NAT gateways, each address of which stands for many "
        "devices (a JSON list of CIDRs): limits per address do not hold for them. Those of "
        "`OTAFLUX_IDENTITY__TRUSTED_PEERS` are such in any case.",
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
    min_bytes_per_second: Annotated[float, Field(ge=0)] = Field(
        256.0,
        description="A reader that takes fewer bytes than this, over the time of `stall_seconds`, "
        "is dropped, too.",
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
    max_downloads_per_device: Annotated[int, Field(ge=1)] = Field(
        4,
        description="Downloads of one device at one time, ranges among them; further ones get 429.",
    )
    requests_per_second: Annotated[float, Field(gt=0)] = Field(
        20.0,
        description="Requests that a device may make over time; more get 429. One for bytes of an "
        "artifact counts a quarter.",
    )
    requests_burst: Annotated[float, Field(ge=1)] = Field(
        400.0, description="Requests that a device may have saved up, and make at once."
    )
    refusals_per_second: Annotated[float, Field(gt=0)] = Field(
        20.0,
        description="Requests of one address that may be refused over time, as of an unknown "
        "device; beyond, all that it asks gets 429. Not for `shared_addresses`.",
    )
    refusals_burst: Annotated[float, Field(ge=1)] = Field(
        400.0, description="Refusals that an address may have saved up."
    )
