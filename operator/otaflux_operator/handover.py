"""Hands pull credentials over to the servers, and takes back what nobody refers to."""

import asyncio
from collections.abc import Callable

from otaflux_operator.ports import CredentialEntries, Publications
from otaflux_policy.credentials import RegistryAccess


class Handover:
    """Writes entries before policies refer to them, removes them once nothing does."""

    def __init__(self, entries: CredentialEntries, publications: Publications) -> None:
        self._entries = entries
        self._publications = publications
        self._written: dict[str, RegistryAccess] = {}
        self._lock = asyncio.Lock()

    async def ensure(self, name: str, access: RegistryAccess) -> None:
        """The entry is there when this returns. Raises Unavailable."""
        if name in self._written:
            return
        async with self._lock:
            await self._entries.add(name, access)
            self._written[name] = access

    async def prune(self, in_use: Callable[[], set[str]]) -> None:
        """Removes entries that are neither `in_use` nor in a published policy.

        Writes again what is missing of them, should somebody have removed it. Raises Unavailable.
        """
        async with self._lock:
            there = await self._entries.names()
            wanted = await self._publications.entries() | in_use()
            # Before the removal: who needs one again meanwhile waits, and writes it anew.
            self._written = {
                name: access for name, access in self._written.items() if name in wanted
            }
            if stale := there - wanted:
                await self._entries.remove(sorted(stale))
            for name, access in self._written.items():
                if name not in there:
                    await self._entries.add(name, access)
