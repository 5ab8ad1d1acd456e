"""Who is at the other end of a connection."""

import asyncio


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The IP address at the other end; empty: it has none."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""
