"""The Lease on a real API server: one holds it, the others wait, and nobody else writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_operator.kubernetes.apis import MERGE_PATCH, Api
from otaflux_operator.kubernetes.leases import Lease, LeaseLost, NotHeld, Taken
from tests.operator.clusters import eventually
from tests.operator.fakes import CEILING

SECONDS = 5.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    async with Api(control_plane.kubeconfig) as api:
        yield api


def lease(api: Api, namespace: str, holder: str, clock: Clock | None = None) -> Lease:
    if clock is None:
        return Lease(api, namespace, "otaflux-operator", holder, SECONDS)
    return Lease(api, namespace, "otaflux-operator", holder, SECONDS, clock)


async def spec(api: Api, namespace: str) -> dict[str, Any]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/otaflux-operator"
    found: dict[str, Any] = (await api.get(path))["spec"]
    return found


async def looks_again(candidate: Lease, before: float | None) -> None:
    """Waits until it has read the Lease after `before`."""

    async def look() -> float | None:
        return candidate.seen_at

    await eventually(look, lambda at: at != before)


async def renewed(api: Api, namespace: str, before: str) -> str:
    """The time of the first renewal that differs from `before`."""

    async def look() -> str:
        return str((await spec(api, namespace))["renewTime"])

    return await eventually(look, lambda at: at != before)


@asynccontextmanager
async def waiting(candidate: Lease) -> AsyncIterator["asyncio.Task[Taken]"]:
    """One that has seen that another holds the Lease."""
    task = asyncio.create_task(candidate.take())
    await looks_again(candidate, None)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_first_one_makes_it_and_the_next_one_waits_until_it_is_given_back(
    api: Api, namespace: str
) -> None:
    first, second = lease(api, namespace, "first"), lease(api, namespace, "second")
    with pytest.raises(NotHeld):
        first.ensure()
    assert await first.take() == Taken(0, given=False)
    first.ensure()
    assert (await spec(api, namespace))["holderIdentity"] == "first"
    async with waiting(second) as task:
        assert not second.is_held
        await first.release()
        with pytest.raises(NotHeld):
            first.ensure()
        assert await asyncio.wait_for(task, CEILING) == Taken(1, given=True)
    second.ensure()
    found = await spec(api, namespace)
    assert (found["holderIdentity"], found["leaseTransitions"]) == ("second", 1)
    assert found["leaseDurationSeconds"] == SECONDS


async def test_it_counts_only_for_two_thirds_of_its_time(api: Api, namespace: str) -> None:
    clock = Clock()
    first = lease(api, namespace, "first", clock)
    await first.take()
    clock.now += SECONDS * 0.6
    first.ensure()
    clock.now += SECONDS * 0.1
    with pytest.raises(NotHeld):
        first.ensure()
    with pytest.raises(LeaseLost, match="not be renewed in time"):
        await first.keep()


async def test_others_wait_for_its_whole_time_by_their_own_clock(api: Api, namespace: str) -> None:
    clock = Clock()
    await lease(api, namespace, "first").take()
    second = lease(api, namespace, "second", clock)
    async with waiting(second) as task:
        clock.now += SECONDS - 0.1
        seen = second.seen_at
        await looks_again(second, seen)
        await asyncio.sleep(0)
        assert not task.done()
        clock.now += 0.2
        assert await asyncio.wait_for(task, CEILING) == Taken(1, given=False)


async def test_one_that_is_renewed_is_kept(api: Api, namespace: str) -> None:
    clock = Clock()
    first, second = lease(api, namespace, "first"), lease(api, namespace, "second", clock)
    await first.take()
    keeping = asyncio.create_task(first.keep())
    async with waiting(second) as task:
        before = (await spec(api, namespace))["renewTime"]
        for _ in range(3):
            before = await renewed(api, namespace, before)
            seen = second.seen_at
            await looks_again(second, seen)
            clock.now += SECONDS - 0.1
        assert not task.done()
        assert not keeping.done()
        first.ensure()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_one_that_another_took_is_lost_at_once(api: Api, namespace: str) -> None:
    clock = Clock()
    first, second = lease(api, namespace, "first"), lease(api, namespace, "second", clock)
    await first.take()
    async with waiting(second) as task:
        clock.now += SECONDS
        await asyncio.wait_for(task, CEILING)
    with pytest.raises(LeaseLost, match="second holds it"):
        await asyncio.wait_for(first.keep(), CEILING)
    with pytest.raises(NotHeld):
        first.ensure()
    second.ensure()
    await first.release()
    assert (await spec(api, namespace))["holderIdentity"] == "second"


async def test_one_that_was_deleted_is_lost_at_once(
    control_plane: ControlPlane, api: Api, namespace: str
) -> None:
    clock = Clock()
    first = lease(api, namespace, "first", clock)
    await first.take()
    await control_plane.kubectl("delete", "lease", "otaflux-operator", "-n", namespace)
    with pytest.raises(LeaseLost, match="deleted"):
        await asyncio.wait_for(first.keep(), CEILING)
    with pytest.raises(NotHeld):
        first.ensure()
    # Nobody knows what the one before still writes.
    second = lease(api, namespace, "second")
    assert await second.take() == Taken(0, given=False)


async def test_one_that_somebody_merely_touched_is_kept(api: Api, namespace: str) -> None:
    first = lease(api, namespace, "first")
    await first.take()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/otaflux-operator"
    await api.patch(path, {"metadata": {"labels": {"seen": "yes"}}}, kind=MERGE_PATCH)
    keeping = asyncio.create_task(first.keep())
    before = (await spec(api, namespace))["renewTime"]
    await renewed(api, namespace, before)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_of_two_that_try_at_once_one_succeeds(api: Api, namespace: str) -> None:
    candidates = [lease(api, namespace, f"candidate-{i}") for i in range(8)]
    tasks = [asyncio.create_task(candidate.take()) for candidate in candidates]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for candidate in candidates:
        await looks_again(candidate, None)
    assert sum(candidate.is_held for candidate in candidates) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("method", ["patch", "post", "delete"])
async def test_without_it_nothing_is_written_by_any_way(
    control_plane: ControlPlane, api: Api, namespace: str, method: str
) -> None:
    clock = Clock()
    held = lease(api, namespace, "first", clock)
    await held.take()
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    made = await api.post(path, body)
    async with Api(control_plane.kubeconfig, held.ensure) as guarded:
        assert (await guarded.get(f"{path}/x"))["metadata"]["name"] == "x"
        clock.now += SECONDS
        metadata = made["metadata"]
        writes: dict[str, Callable[[], Awaitable[object]]] = {
            "patch": lambda: guarded.patch(f"{path}/x", {"data": {"a": "b"}}, kind=MERGE_PATCH),
            "post": lambda: guarded.post(path, body | {"metadata": {"name": "y"}}),
            "delete": lambda: guarded.delete(
                f"{path}/x", uid=metadata["uid"], version=metadata["resourceVersion"]
            ),
        }
        with pytest.raises(NotHeld):
            await writes[method]()
        found = await guarded.get(path)
    names = {item["metadata"]["name"]: item.get("data") for item in found["items"]}
    assert names.get("x", "gone") is None
    assert "y" not in names
