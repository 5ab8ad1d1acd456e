"""Claims at one time share transactions, and get what each would have got alone."""

import asyncio
from collections.abc import Sequence

import pytest

from otaflux_policy.facts import Facts
from otaflux_server.evidence.claiming import Claimer
from otaflux_server.evidence.claims import Claim, Claimed, Judge
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import Offer
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt, judge

GRANTED = Claimed(Claim.GRANTED, Facts())


def offer(device: int, ring: str = "canary") -> Offer:
    return Offer(attempt(device), ring, at(device))


class Slow:
    """A store whose transactions end when the test says so."""

    def __init__(self) -> None:
        self.groups: list[list[Offer]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def claim_all(
        self, offers: Sequence[Offer], limit: int | None, judge: Judge
    ) -> list[Claimed]:
        self.groups.append(list(offers))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [GRANTED] * len(offers)


async def test_two_replicas_with_many_devices_at_one_time(database: str) -> None:
    async with (
        Store(database) as one,
        Store(database) as other,
        Claimer(one, together=20) as here,
        Claimer(other, together=20) as there,
    ):
        claimed = await asyncio.gather(
            *((here, there)[n % 2].claim(offer(n // 2), 17, judge) for n in range(400))
        )
    claims = [claim for claim, _ in claimed]
    assert claims.count(Claim.GRANTED) == 17
    assert claims.count(Claim.HELD) == 17


async def test_claims_of_one_ring_wait_for_each_other_and_go_together() -> None:
    store = Slow()
    async with Claimer(store, together=3) as claimer:
        first = asyncio.create_task(claimer.claim(offer(0), 9, judge))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = [asyncio.create_task(claimer.claim(offer(n), 9, judge)) for n in range(1, 5)]
        elsewhere = asyncio.create_task(claimer.claim(offer(9, "early"), 9, judge))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert store.groups == [[offer(0)], [offer(9, "early")]]
        store.go.set()
        assert set(await asyncio.gather(first, *others, elsewhere)) == {GRANTED}
    assert store.groups[2:] == [[offer(1), offer(2), offer(3)], [offer(4)]]


async def test_an_error_reaches_every_caller_and_the_next_claim_is_tried() -> None:
    store = Slow()
    store.error = StoreUnavailable("stopped")
    store.go.set()
    async with Claimer(store) as claimer:
        tried = await asyncio.gather(
            *(claimer.claim(offer(n), 9, judge) for n in range(3)), return_exceptions=True
        )
        assert tried == [store.error] * 3
        store.error = None
        assert await claimer.claim(offer(1), 9, judge) == GRANTED


async def test_a_caller_that_goes_away_takes_none_with_it_and_too_many_are_refused() -> None:
    store = Slow()
    async with Claimer(store, capacity=2) as claimer:
        under_way = asyncio.create_task(claimer.claim(offer(0), 9, judge))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone, stays = (asyncio.create_task(claimer.claim(offer(n), 9, judge)) for n in range(1, 3))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(StoreUnavailable, match="too many"):
            await claimer.claim(offer(3), 9, judge)
        store.go.set()
        assert await under_way == GRANTED
        assert await stays == GRANTED
        with pytest.raises(asyncio.CancelledError):
            await gone
