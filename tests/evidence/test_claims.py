"""First offers are written through, and never beyond the limit of their ring."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from otaflux_policy.facts import Facts, FirstOffer
from otaflux_server.evidence.claims import Claim
from otaflux_server.evidence.records import DeviceKey, Offer, RunKey
from otaflux_server.evidence.stores import Batch, Store
from tests.evidence.attempts import at, attempt, in_flight

ROOT = Path(__file__).parents[2]
RUN = RunKey("default", "thermostat", 1)


def offer(device: int | str, ring: str = "canary", *, seconds: float = 0) -> Offer:
    return Offer(attempt(device), ring, at(seconds))


async def in_the_store(store: Store) -> int:
    return len([item async for item in store.attempts(RUN) if in_flight(item.facts)])


async def test_two_replicas_grant_exactly_the_limit(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        devices = [*range(200), *range(200)]
        random.Random(7).shuffle(devices)
        claims = await asyncio.gather(
            *(
                (one, other)[place % 2].claim(offer(device), 17, in_flight)
                for place, device in enumerate(devices)
            )
        )
        assert claims.count(Claim.GRANTED) == 17
        held = {d for d, claim in zip(devices, claims, strict=True) if claim is Claim.GRANTED}
        assert all(
            device in held
            for device, claim in zip(devices, claims, strict=True)
            if claim is Claim.HELD
        )
        assert await in_the_store(one) == 17


_CLAIMER = """
import asyncio, sys
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import in_flight
from tests.evidence.test_claims import offer

async def main() -> None:
    async with Store(sys.argv[1]) as store:
        claims = [await store.claim(offer(n), 17, in_flight) for n in range(100)]
    print(claims.count("Granted"))

asyncio.run(main())
"""


async def test_two_processes_grant_exactly_the_limit(database: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CLAIMER, database, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [await process.communicate() for process in processes]
    assert sum(int(output) for output, _ in outputs) == 17


async def test_an_outcome_frees_the_slot_and_a_later_fact_takes_it_back(database: str) -> None:
    async with Store(database) as store:
        assert await store.claim(offer(1), 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(1), 1, in_flight) is Claim.HELD
        assert await store.claim(offer(2), 1, in_flight) is Claim.LIMITED
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        assert await store.claim(offer(2), 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(1, seconds=9), 1, in_flight) is Claim.LIMITED
        await store.merge(Batch({attempt(2): Facts(target_first=at(6), target_last=at(6))}))
        assert await store.claim(offer(1, seconds=9), 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(3), 1, in_flight) is Claim.LIMITED
        (known, _) = [item.facts async for item in store.attempts(RUN)]
    assert known.first_offer == FirstOffer(at(0), "canary")
    assert (known.last_offer, known.offer_ended) == (at(9), at(5))


async def test_what_was_concluded_is_judged_again_only_after_a_fact_that_matters(
    database: str,
) -> None:
    judged: list[Facts] = []

    def judge(facts: Facts) -> bool:
        judged.append(facts)
        return in_flight(facts)

    async with Store(database) as store:
        await store.claim(offer(1), 9, judge)
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        for device in (2, 3):
            judged.clear()
            await store.claim(offer(device), 9, judge)
        assert all(facts.offer_ended is None for facts in judged)
        await store.merge(Batch({attempt(1): Facts(last_poll=at(50))}))
        judged.clear()
        await store.claim(offer(4), 9, judge)
        assert all(facts.offer_ended is None for facts in judged)
        await store.merge(Batch({attempt(1): Facts(first_byte=at(60))}))
        judged.clear()
        await store.claim(offer(5), 9, judge)
        assert any(facts.offer_ended is not None for facts in judged)


async def test_rings_and_runs_have_limits_of_their_own(database: str) -> None:
    async with Store(database) as store:
        assert await store.claim(offer(1), 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(2, "early"), 1, in_flight) is Claim.GRANTED
        next_run = Offer(attempt(1, run=2), "canary", at(0))
        assert await store.claim(next_run, 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(3), None, in_flight) is Claim.GRANTED
        assert await store.claim(offer(4), 2, in_flight) is Claim.LIMITED


async def test_a_device_that_moved_takes_a_slot_of_its_new_ring(database: str) -> None:
    async with Store(database) as store:
        await store.claim(offer(1), 1, in_flight)
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        assert await store.claim(offer(1, "early", seconds=9), 1, in_flight) is Claim.GRANTED
        assert await store.claim(offer(2, "early"), 1, in_flight) is Claim.LIMITED
        assert await store.claim(offer(3), 1, in_flight) is Claim.GRANTED


async def test_offers_claimed_together(database: str) -> None:
    async with Store(database) as store:
        offers = [offer(n) for n in (3, 1, 3, 2)]
        claims = await store.claim_all(offers, 2, in_flight)
        assert claims == [Claim.GRANTED, Claim.GRANTED, Claim.HELD, Claim.LIMITED]
        with pytest.raises(ValueError, match="one ring"):
            await store.claim_all([offer(1), offer(1, "early")], 2, in_flight)


async def test_claims_and_merges_of_the_same_devices_at_one_time(database: str) -> None:
    """No deadlock, and no verdict on facts that a merge has overtaken."""
    async with Store(database) as one, Store(database) as other:
        for n in range(60):
            await one.claim(offer(n), None, in_flight)
        ended = {attempt(n): Facts(offer_ended=at(5)) for n in range(60)}
        again = {attempt(n): Facts(last_offer=at(9)) for n in range(0, 60, 2)}
        await one.merge(Batch(ended))
        await asyncio.gather(
            other.merge(Batch(again)),
            *(one.claim(offer(f"new-{n}"), 500, in_flight) for n in range(10)),
        )
        assert await in_the_store(one) == 40
        assert await other.claim(offer("last"), 40, in_flight) is Claim.LIMITED
        assert await other.claim(offer("last"), 41, in_flight) is Claim.GRANTED
        assert (await one.device_attempts(DeviceKey("default", "device-last")))[0].facts == Facts(
            first_offer=FirstOffer(at(0), "canary"), last_offer=at(0)
        )
