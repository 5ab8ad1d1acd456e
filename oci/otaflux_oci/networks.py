"""Which addresses a registry, its token server and whatever they point to may have."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import BaseModel, ConfigDict, Field

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


class RegistrySettings(BaseModel):
    """What registries may be reached, and who else gets their credentials."""

    model_config = ConfigDict(extra="forbid")

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        PRIVATE_NETWORKS,
        description="Networks beside the public internet in which registries may be (a JSON list "
        "of CIDRs). The default is where clusters have their Services; loopback, link-local and "
        "metadata addresses are refused unless they are listed here.",
    )
    trusted_realm_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts (`HOST` or `HOST:PORT`, a JSON list) of token servers that may get "
        "credentials although they are not the registry's own.",
    )
