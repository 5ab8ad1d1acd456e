"""Connections to allowed addresses only: httpcore's network backend.

The name is resolved once; each address is checked, and the very ones that passed are connected
to. What a second resolution would say (DNS rebinding) does not matter. TLS and the Host header
keep the name, as httpcore takes them from the URL.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore

from .errors import AddressRefused
from .networks import Address, Network, is_allowed

_MOST_ADDRESSES = 4
_SECONDS = 10.0

# Of their own, so that a name server that hangs holds up other lookups and nothing else.
_LOOKUPS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="otaflux-dns")


class AllowedConnections(httpcore.AsyncNetworkBackend):
    """Raises AddressRefused where a host has no allowed address."""

    def __init__(self, allowed: Iterable[Network]) -> None:
        self._allowed = tuple(allowed)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """To the first allowed address that answers; `timeout`, in seconds, is for all of them."""
        end = time.monotonic() + (_SECONDS if timeout is None else timeout)
        found = await _resolved(host, port, end - time.monotonic())
        addresses = [address for address in found if is_allowed(address, self._allowed)]
        if not addresses:
            raise AddressRefused(
                f"{host} may not be connected to: it is not on the public internet. If it is "
                "trusted, an administrator has to list its network in "
                "OTAFLUX_REGISTRIES__ALLOWED_NETWORKS (docs/registries.md)."
            )
        failure: Exception | None = None
        candidates = addresses[:_MOST_ADDRESSES]
        for index, address in enumerate(candidates):
            share = max(end - time.monotonic(), 0.0) / (len(candidates) - index)
            try:
                return await self._backend.connect_tcp(
                    str(address), port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _resolved(host: str, port: int, seconds: float) -> list[Address]:
    """Each address once, in the order of RFC 6724. Numbers in any form are addresses too."""

    def look_up() -> list[Address]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(ip_address(name[0]) for *_, name in found))

    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from error
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA refuses
        raise httpcore.ConnectError(f"{host} cannot be resolved") from error
