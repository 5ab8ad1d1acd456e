"""Claims that come at one time share a transaction: many devices poll when a ring opens."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from otaflux_server.evidence.claims import Claimed, Judge
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import Offer

_Ring = tuple[str, str, int, str]


class ClaimsAll(Protocol):
    """Where claims go (`Store`)."""

    async def claim_all(
        self, offers: Sequence[Offer], limit: int | None, judge: Judge
    ) -> list[Claimed]:
        """Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    offer: Offer
    limit: int | None
    judge: Judge
    claim: "asyncio.Future[Claimed]"


class Claimer:
    """`await claimer.claim(offer, …)` is `store.claim(offer, …)` for many callers at one time.

    While one transaction of a ring runs, further claims of it wait; up to `together` of them are
    the next. At most `capacity` wait.
    """

    def __init__(self, store: ClaimsAll, *, together: int = 500, capacity: int = 20_000) -> None:
        self._store = store
        self._together = together
        self._capacity = capacity
        self._waiting: dict[_Ring, deque[_Waiting]] = {}
        self._tasks: dict[_Ring, asyncio.Task[None]] = {}
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for the claims under way."""
        await asyncio.gather(*self._tasks.values())

    async def claim(self, offer: Offer, limit: int | None, judge: Judge) -> Claimed:
        """See `Store.claim`. Of those that share a transaction, the last one's limit holds.

        Raises:
            StoreUnavailable: as there, or too many claims wait already.
        """
        if self._count >= self._capacity:
            raise StoreUnavailable("too many claims wait for the evidence database")
        ring = (*offer.key[:3], offer.ring)
        claim: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ring, deque()).append(_Waiting(offer, limit, judge, claim))
        self._count += 1
        if ring not in self._tasks:
            self._tasks[ring] = asyncio.create_task(self._run(ring), name="claims")
        return await claim

    async def _run(self, ring: _Ring) -> None:
        waiting = self._waiting[ring]
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(self._together, len(waiting)))]
                self._count -= len(group)
                await self._claim(group)
        finally:
            del self._tasks[ring], self._waiting[ring]
            self._count -= len(waiting)
            for left in waiting:
                left.claim.cancel()

    async def _claim(self, group: list[_Waiting]) -> None:
        last = group[-1]
        try:
            offers = [waiting.offer for waiting in group]
            claims = await self._store.claim_all(offers, last.limit, last.judge)
        except Exception as error:  # every caller gets it
            for waiting in group:
                if not waiting.claim.done():
                    waiting.claim.set_exception(error)
        except asyncio.CancelledError:
            for waiting in group:
                waiting.claim.cancel()
            raise
        else:
            for waiting, claim in zip(group, claims, strict=True):
                # A caller that has gone leaves an offer that its device was not told.
                if not waiting.claim.done():
                    waiting.claim.set_result(claim)
