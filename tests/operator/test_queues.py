"""The keyed queue: each key once, never twice at a time, in the order of time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_operator.queues import Backoff, KeyedQueue, work


async def test_a_key_is_there_once_and_the_earliest_time_wins() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    queue.put("b", 3600)
    queue.put("a")
    queue.put("b", 0)
    queue.put("b", 3600)
    assert len(queue) == 2
    assert [await queue.take(), await queue.take()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_that_is_worked_on_comes_again_only_after_that() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    queue.put("a")
    assert await queue.take() == "a"
    queue.put("a")
    taking = asyncio.create_task(queue.take())
    queue.put("b")
    assert await taking == "b"
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not taking.done()
    queue.done("a")
    assert await taking == "a"


async def test_what_is_dropped_does_not_come() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    queue.put("a")
    queue.drop("a")
    queue.put("b")
    assert await queue.take() == "b"


async def test_what_is_due_later_wakes_a_waiting_worker() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.put("later", 3600)
    queue.put("soon", 0.01)
    assert await taking == "soon"


async def test_what_was_overtaken_does_not_pile_up() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    for _ in range(1000):
        queue.put("a", 3600)
        queue.put("a")
        assert await queue.take() == "a"
        queue.done("a")
    assert len(queue._heap) < 100  # what is held has no other sign


async def test_beyond_its_capacity_it_says_that_keys_were_lost() -> None:
    queue: KeyedQueue[str] = KeyedQueue(capacity=1)
    queue.put("a")
    queue.put("a")
    assert not queue.overflowed
    queue.put("b")
    assert (queue.overflowed, queue.overflowed) == (True, False)
    assert await queue.take() == "a"


@pytest.mark.parametrize("workers", [1, 3])
async def test_workers_lose_nothing_and_never_share_a_key(workers: int) -> None:
    queue: KeyedQueue[int] = KeyedQueue()
    active: set[int] = set()
    seen: list[int] = []
    all_seen = asyncio.Event()

    async def handle(key: int) -> None:
        assert key not in active
        active.add(key)
        await asyncio.sleep(0)
        active.discard(key)
        seen.append(key)
        if len(seen) < 200:
            queue.put((key + 1) % 5)
            queue.put(key)
        elif set(range(5)) <= set(seen):
            all_seen.set()

    task = asyncio.create_task(work(queue, handle, workers))
    for key in range(5):
        queue.put(key)
    async with asyncio.timeout(30):
        await all_seen.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@given(failures=st.integers(1, 200))
def test_backoff_grows_to_a_bound_and_starts_again(failures: int) -> None:
    backoff: Backoff[str] = Backoff(1.0, 60.0)
    delays = [backoff.next("a") for _ in range(failures)]
    assert all(0.5 <= delay <= 60.0 for delay in delays)
    assert failures < 8 or delays[-1] >= 30.0
    backoff.reset("a")
    assert backoff.next("a") <= 1.0
