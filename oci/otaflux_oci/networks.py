"""Which addresses a registry, its token server and whatever they point to may have.

Sources: IANA's special-purpose address registries (RFC 6890) by way of `ipaddress`, and what
clouds document as the addresses of their metadata services.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from pydantic import BaseModel, ConfigDict, Field

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


PRIVATE_NETWORKS = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"
)

METADATA_ADDRESSES = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, Oracle, OpenStack and others
        "169.254.170.2",  # AWS ECS: credentials of the task
        "169.254.170.23",  # AWS EKS: Pod Identity
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "100.96.0.96",  # Volcano Engine
        "168.63.129.16",  # Azure: wire server
        "192.0.0.192",  # Oracle, classic
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS: Pod Identity
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
    )
)

# What no listing opens: on Linux a connection to 0.0.0.0 or :: is one to this machine.
_NEVER = _networks("0.0.0.0/8", "::/128", "224.0.0.0/4", "255.255.255.255/32", "ff00::/8")
_GUARDED = _networks("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10")
_GLOBAL_IPV6 = IPv6Network("2000::/3")
# Not for registries, though some versions of `ipaddress` take them for public.
_NOT_PUBLIC = _networks("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
# IPv4 in the last 32 bits: compatible, mapped, translated (RFC 2765), NAT64 (RFC 6052).
_IPV4_AT_END = tuple(
    IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


class RegistrySettings(BaseModel):
    """What registries may be reached, and who else gets their credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        PRIVATE_NETWORKS,
        description="Networks beside the public internet in which registries, their token servers "
        "and their storage may be (a JSON list of CIDRs, which replaces the default). The default "
        "is where clusters have their Services and homes their hosts. Loopback and link-local "
        "addresses are opened only by a network that lies in theirs (`127.0.0.0/8`), the metadata "
        "address of a cloud only by itself (`169.254.169.254/32`).",
    )
    trusted_realm_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts (`HOST` or `HOST:PORT`, a JSON list) of token servers that may get "
        "credentials although they are not the registry's own.",
    )


def is_allowed(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether a connection may go there. `allowed`: as `RegistrySettings.allowed_networks`.

    An IPv6 address that carries an IPv4 one leads there, and is judged as that.
    """
    carried = list(_carried(address))
    if carried:
        return all(is_allowed(inner, allowed) for inner in carried)
    if any(address in network for network in _NEVER):
        return False
    opening = [network for network in allowed if address in network]
    if address in METADATA_ADDRESSES:
        return any(network.num_addresses == 1 for network in opening)
    for guarded in _GUARDED:
        if address in guarded:
            # Of two networks with this address the one with the longer prefix lies in the other.
            return any(network.prefixlen >= guarded.prefixlen for network in opening)
    return _is_public(address) or bool(opening)


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def _carried(address: Address) -> Iterator[IPv4Address]:
    """Where relays and translators would take an IPv6 address."""
    if isinstance(address, IPv4Address) or int(address) in (0, 1):
        return
    bits = int(address)
    last = IPv4Address(bits & 0xFFFFFFFF)
    if any(address in network for network in _IPV4_AT_END) or (bits >> 32) & 0xFFFFFFFF in _ISATAP:
        yield last
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
