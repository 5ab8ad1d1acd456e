"""Who may have a connection to the device port, and why connections are dropped."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

import structlog

from otaflux_server.lines import Lines
from otaflux_server.metrics import Metrics
from otaflux_server.rates import network_of
from otaflux_server.settings import ConnectionSettings

log = structlog.get_logger(__name__)

Network = IPv4Network | IPv6Network


class Drop(StrEnum):
    """Why a connection was ended without, or within, a response."""

    TOO_MANY = "TooMany"
    TOO_MANY_OF_ADDRESS = "TooManyOfAddress"
    IDLE = "Idle"
    REQUEST_TOO_SLOW = "RequestTooSlow"
    READER_STALLED = "ReaderStalled"
    READER_TOO_SLOW = "ReaderTooSlow"
    RESPONSE_TOO_LONG = "ResponseTooLong"


MEANINGS: dict[Drop, str] = {
    Drop.TOO_MANY: "`connections.max_connections` are open.",
    Drop.TOO_MANY_OF_ADDRESS: (
        "`connections.max_connections_per_address` of the address are open; a proxy or NAT gateway "
        "belongs into `connections.shared_addresses`."
    ),
    Drop.IDLE: (
        "No further request came within `connections.idle_seconds`; nothing is wrong, and nothing "
        "logged."
    ),
    Drop.REQUEST_TOO_SLOW: (
        "The connection's first request, or one that began, was not complete within "
        "`connections.request_seconds`."
    ),
    Drop.READER_STALLED: "The client took no byte for `connections.stall_seconds`.",
    Drop.READER_TOO_SLOW: (
        "The client took fewer bytes than `connections.min_bytes_per_second`, over "
        "`connections.stall_seconds`."
    ),
    Drop.RESPONSE_TOO_LONG: "The response took longer than `connections.response_seconds`.",
}


class Connections:
    """Counts open connections by address, and what was dropped.

    `shared`: networks whose addresses stand for many devices. On the event loop only.
    """

    def __init__(
        self, limits: ConnectionSettings, shared: Iterable[Network], metrics: Metrics
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._open: defaultdict[str, int] = defaultdict(int)
        self._lines: Lines[Drop] = Lines(_write)
        networks = (*limits.shared_addresses, *shared)
        self.is_shared = lru_cache(maxsize=4096)(lambda peer: _within(peer, networks))
        """Whether limits per address do not hold for this one."""

    def admit(self, peer: str, others: int) -> bool:
        """Whether `peer` may have one more connection, beside `others` of anybody.

        Where it may, `left` is to be called once it is closed.
        """
        if others >= self._limits.max_connections:
            self.dropped(Drop.TOO_MANY, peer)
            return False
        network = network_of(peer)
        if self._has_enough(network) and not self.is_shared(peer):
            self.dropped(Drop.TOO_MANY_OF_ADDRESS, peer)
            return False
        self._open[network] += 1
        return True

    def _has_enough(self, network: str) -> bool:
        return self._open.get(network, 0) >= self._limits.max_connections_per_address

    def left(self, peer: str) -> None:
        """A connection that was admitted is closed."""
        network = network_of(peer)
        self._open[network] -= 1
        if not self._open[network]:
            del self._open[network]

    def dropped(self, reason: Drop, peer: str) -> None:
        """Notes a connection of `peer` that was dropped."""
        self._metrics.dropped(reason)
        if reason is not Drop.IDLE:
            self._lines.note(reason, peer)


def _write(reason: Drop, peer: str, count: int) -> None:
    log.info("connection dropped", reason=reason.value, peer=peer, count=count)


def _within(peer: str, networks: Iterable[Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return True  # no IP address: a socket of this host
    mapped = address.ipv4_mapped if address.version == 6 else None
    return any((mapped or address) in network or address in network for network in networks)
