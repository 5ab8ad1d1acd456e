"""First offers are written through, and never beyond the limit of their ring."""

import asyncio
import random
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from otaflux_policy.attempts import AttemptState
from otaflux_policy.evidence import standing
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_server.evidence.claims import Claim
from otaflux_server.evidence.records import Batch, DeviceFacts, DeviceKey, Offer, Pin, RunKey
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import DIGEST, TERMS, at, attempt, in_flight, judge

ROOT = Path(__file__).parents[2]
RUN = RunKey("default", "thermostat", 1)


def offer(device: int | str, ring: str = "canary", *, seconds: float = 0) -> Offer:
    return Offer(attempt(device), ring, at(seconds))


def device(name: int | str) -> DeviceKey:
    return DeviceKey("default", f"device-{name}")


def seen(seconds: float) -> DeviceFacts:
    return DeviceFacts(first_seen=at(seconds), last_seen=at(seconds))


async def in_the_store(store: Store) -> int:
    return len([item async for item in store.attempts(RUN) if in_flight(item.facts)])


async def test_two_replicas_grant_exactly_the_limit(database: str) -> None:
    async with Store(database) as one, Store(database) as other:
        devices = [*range(200), *range(200)]
        random.Random(7).shuffle(devices)
        places = iter(enumerate(devices))
        answers: dict[int, Claim] = {}

        async def work(store: Store) -> None:
            # No more at one time than there are connections to be had.
            for place, device in places:
                answers[place] = (await store.claim(offer(device), 17, judge)).claim

        await asyncio.gather(*(work(store) for store in (one, other) for _ in range(8)))
        claims = [answers[place] for place in range(len(devices))]
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
from tests.evidence.attempts import judge
from tests.evidence.test_claims import offer

async def main() -> None:
    async with Store(sys.argv[1]) as store:
        claims = [(await store.claim(offer(n), 17, judge)).claim for n in range(100)]
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
        assert (await store.claim(offer(1), 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(1), 1, judge)).claim is Claim.HELD
        assert (await store.claim(offer(2), 1, judge)).claim is Claim.LIMITED
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        assert (await store.claim(offer(2), 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(1, seconds=9), 1, judge)).claim is Claim.LIMITED
        await store.merge(Batch({attempt(2): Facts(target_first=at(6), target_last=at(6))}))
        assert (await store.claim(offer(1, seconds=9), 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(3), 1, judge)).claim is Claim.LIMITED
        (known, _) = [item.facts async for item in store.attempts(RUN)]
    assert known.first_offer == FirstOffer(at(0), "canary")
    assert (known.last_offer, known.offer_ended) == (at(9), at(5))


async def test_what_was_concluded_is_judged_again_only_after_a_fact_that_matters(
    database: str,
) -> None:
    judged: list[Facts] = []

    def noted(facts: Facts) -> AttemptState | None:
        judged.append(facts)
        return judge(facts)

    async with Store(database) as store:
        await store.claim(offer(1), 1, noted)
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        for device in (2, 3):
            judged.clear()
            await store.claim(offer(device), 1, noted)
        assert all(facts.offer_ended is None for facts in judged)
        await store.merge(Batch({attempt(1): Facts(last_poll=at(50))}))
        judged.clear()
        await store.claim(offer(4), 1, noted)
        assert all(facts.offer_ended is None for facts in judged)
        await store.merge(Batch({attempt(1): Facts(first_byte=at(60))}))
        judged.clear()
        await store.claim(offer(5), 1, noted)
        assert any(facts.offer_ended is not None for facts in judged)


async def test_rings_and_runs_have_limits_of_their_own(database: str) -> None:
    async with Store(database) as store:
        assert (await store.claim(offer(1), 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(2, "early"), 1, judge)).claim is Claim.GRANTED
        next_run = Offer(attempt(1, run=2), "canary", at(0))
        assert (await store.claim(next_run, 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(3), None, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(4), 2, judge)).claim is Claim.LIMITED


async def test_a_device_that_moved_takes_a_slot_of_its_new_ring(database: str) -> None:
    async with Store(database) as store:
        await store.claim(offer(1), 1, judge)
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        assert (await store.claim(offer(1, "early", seconds=9), 1, judge)).claim is Claim.GRANTED
        assert (await store.claim(offer(2, "early"), 1, judge)).claim is Claim.LIMITED
        assert (await store.claim(offer(3), 1, judge)).claim is Claim.GRANTED


async def test_offers_claimed_together(database: str) -> None:
    async with Store(database) as store:
        offers = [offer(n) for n in (3, 1, 3, 2)]
        claims = [claim for claim, _ in await store.claim_all(offers, 2, judge)]
        assert claims == [Claim.GRANTED, Claim.GRANTED, Claim.HELD, Claim.LIMITED]
        with pytest.raises(ValueError, match="one ring"):
            await store.claim_all([offer(1), offer(1, "early")], 2, judge)


async def test_offers_claimed_together_have_what_others_have_freed(database: str) -> None:
    async with Store(database) as store:
        await store.claim(offer(1), 2, judge)
        await store.merge(Batch({attempt(1): Facts(offer_ended=at(5))}))
        claimed = await store.claim_all([offer(2), offer(3)], 2, judge)
        assert [claim for claim, _ in claimed] == [Claim.GRANTED, Claim.GRANTED]


async def test_claims_and_merges_of_the_same_devices_at_one_time(database: str) -> None:
    """No deadlock, and no verdict on facts that a merge has overtaken."""
    async with Store(database) as one, Store(database) as other:
        for n in range(60):
            await one.claim(offer(n), None, judge)
        ended = {attempt(n): Facts(offer_ended=at(5)) for n in range(60)}
        again = {attempt(n): Facts(last_offer=at(9)) for n in range(0, 60, 2)}
        await one.merge(Batch(ended))
        await asyncio.gather(
            other.merge(Batch(again)),
            *(one.claim(offer(f"new-{n}"), 500, judge) for n in range(10)),
        )
        assert await in_the_store(one) == 40
        assert (await other.claim(offer("last"), 40, judge)).claim is Claim.LIMITED
        assert (await other.claim(offer("last"), 41, judge)).claim is Claim.GRANTED
        assert (await one.device_attempts(DeviceKey("default", "device-last")))[0].facts == Facts(
            first_offer=FirstOffer(at(0), "canary"), last_offer=at(0)
        )


async def test_what_is_claimed_by_how_far_the_attempt_is(database: str) -> None:
    """With room for all; what is stored comes back, whoever recorded it."""
    offered = Facts(first_offer=FirstOffer(at(0), "canary"), last_offer=at(0))
    over = timedelta(hours=25).total_seconds()
    downloads = tuple(Download(at(n), at(n + 1)) for n in range(3))
    stored = {
        "new": (None, Claim.GRANTED),
        "unoffered": (Facts(last_poll=at(1)), Claim.GRANTED),
        "offered": (offered, Claim.HELD),
        "withdrawn": (replace(offered, offer_ended=at(1)), Claim.GRANTED),
        "expired": (
            Facts(first_offer=FirstOffer(at(-over), "a"), last_offer=at(-over)),
            Claim.GRANTED,
        ),
        "downloading": (replace(offered, first_byte=at(1)), Claim.HELD),
        "bytes-only": (Facts(first_byte=at(1)), Claim.GRANTED),
        "installing": (
            replace(offered, downloads=downloads[:1], install_reported=at(3)),
            Claim.HELD,
        ),
        "updated": (replace(offered, target_first=at(4), target_last=at(4)), Claim.CONCLUDED),
        "updated-without": (Facts(target_first=at(4), target_last=at(4)), Claim.CONCLUDED),
        "failed": (replace(offered, failure=ReportedFailure(at(3), "E1")), Claim.CONCLUDED),
        "redownloading": (replace(offered, downloads=downloads), Claim.CONCLUDED),
        "timed-out": (replace(offered, first_byte=at(-over)), Claim.CONCLUDED),
    }
    async with Store(database) as store, Store(database) as other:
        known = {attempt(name): facts for name, (facts, _) in stored.items() if facts is not None}
        await other.merge(Batch(known))
        for name, (facts, expected) in stored.items():
            claim, returned = await store.claim(offer(name, seconds=9), 1000, judge)
            assert (name, claim) == (name, expected)
            claimed = Facts(first_offer=FirstOffer(at(9), "canary"), last_offer=at(9))
            before = facts or Facts()
            after = before.join(claimed) if claim is Claim.GRANTED else before
            assert returned == after
            assert [item.facts for item in await store.device_attempts(device(name))] == [after]


async def test_a_device_that_never_asks_frees_its_slot_and_claims_it_anew(database: str) -> None:
    terms = replace(TERMS, polled=True, request_within=timedelta(seconds=30))

    def judge_polled(facts: Facts) -> AttemptState | None:
        known = standing(facts, terms, at(100))
        return None if known is None else known.state

    async with Store(database) as store:
        assert (await store.claim(offer(1), 1, judge_polled)).claim is Claim.GRANTED
        await store.merge(Batch({attempt(1): Facts(last_poll=at(40))}))
        assert (await store.claim(offer(2), 1, judge_polled)).claim is Claim.GRANTED
        assert (await store.claim(offer(1, seconds=50), 1, judge_polled)).claim is Claim.LIMITED
        assert (await store.claim(offer(1, seconds=50), 2, judge_polled)).claim is Claim.GRANTED
        assert (await store.claim(offer(3, seconds=50), 2, judge_polled)).claim is Claim.LIMITED


async def test_a_download_that_ends_late_takes_the_slot_back(database: str) -> None:
    over = timedelta(hours=25).total_seconds()
    async with Store(database) as store:
        await store.claim(offer(1), 1, judge)
        await store.merge(Batch({attempt(1): Facts(first_byte=at(-over), last_request=at(-over))}))
        assert (await store.claim(offer(2), 1, judge)).claim is Claim.GRANTED
        ended = Facts(downloads=(Download(at(-over), at(50)),))
        await store.merge(Batch({attempt(1): ended}))
        assert (await store.claim(offer(3), 2, judge)).claim is Claim.LIMITED
        assert (await store.claim(offer(3), 3, judge)).claim is Claim.GRANTED


async def test_a_pin_is_written_with_the_offer_that_was_made(database: str) -> None:
    def pinned(name: str, seconds: float) -> Offer:
        pin = Pin(at(seconds), DIGEST, at(seconds + 600))
        return replace(offer(name, seconds=seconds), pin=pin)

    async def stored(store: Store, name: str) -> Pin | None:
        facts = await store.device(device(name))
        return None if facts is None else facts.pin

    async with Store(database) as store:
        failed = Facts(failure=ReportedFailure(at(3), "E1"))
        await store.merge(
            Batch({attempt("failed"): failed}, {device("a"): seen(1), device("failed"): seen(1)})
        )
        for name, seconds in (("a", 5), ("b", 6), ("a", 7), ("failed", 8)):
            await store.claim(pinned(name, seconds), 1, judge)
        assert await stored(store, "a") == Pin(at(7), DIGEST, at(607))
        assert await stored(store, "b") is None
        assert await stored(store, "failed") is None
        await store.merge(Batch(devices={device("a"): replace(seen(9), pin=Pin(at(9), "", at(9)))}))
        known = await store.device(device("a"))
    assert known == DeviceFacts(
        first_seen=at(1),
        last_seen=at(9),
        pin=Pin(at(9), "", at(9)),
    )


async def test_claims_with_pins_and_merges_of_the_same_devices_never_deadlock(
    postgres_database: str,
) -> None:
    async with Store(postgres_database) as one, Store(postgres_database) as other:
        names = [f"{n:03}" for n in range(100)]
        batch = Batch(
            {attempt(name): Facts(last_poll=at(1)) for name in names},
            {device(name): seen(1) for name in names},
        )
        offers = [replace(offer(name), pin=Pin(at(2), DIGEST, at(602))) for name in names]
        random.Random(3).shuffle(offers)
        for _ in range(5):
            await asyncio.gather(
                *(other.merge(batch) for _ in range(3)),
                *(one.claim_all(offers[n : n + 50], 1000, judge) for n in (0, 50)),
            )
        assert await in_the_store(one) == 100
