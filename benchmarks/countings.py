"""`counts` and `membership`: a rollout over 100 000 devices, counted and counted anew."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx

from benchmarks.figures import Figure, NotMeasured, percentile, progress
from benchmarks.fleets import NAMESPACE, STABLE, TARGET, Fleet
from benchmarks.loads import each_once, require_wrk
from benchmarks.machines import cores, on_core
from benchmarks.servers import Running, postgres, update_server
from otaflux_policy.counts import RolloutCounts
from otaflux_policy.served import ServedRollout

COUNTS_AIM, MEMBERSHIP_AIM, STALL_AIM = 0.15, 3.0, 0.02
COUNTS_METHOD = (
    "The update server knows every device by its polls; by what they report a third of them run "
    "the release, the others the one before. The clock runs from the request for the rollout at "
    "the internal API to its answer, counts included, without other load. Beside it, the same for "
    "a rollout that does not exist. `after a restart`: from the start of the server's process "
    "until it has read the database and tells all counts again."
)
MEMBERSHIP_METHOD = (
    "The second ring of the rollout grows from a tenth to three tenths and shrinks again; every "
    "device is placed and counted anew each time. The clock runs from the new policy until the "
    "internal API tells counts of its revision. Meanwhile, from the other core, one device after "
    "the other polls each 2 ms, of those that run the release: no first offer has to reach the "
    "disk before their answer. The longest wait for one is the stall, and beside it the "
    "same over the same time without a change. `by CPU time` is the longest time that the event "
    "loop itself was kept, without what other processes took away."
)

_CEILING = 60.0
_LOOK = 0.02
_PAUSE = 0.002


@dataclass(frozen=True, slots=True)
class Size:
    """Devices of one rollout; how often it is asked for, and changed."""

    fleet: Fleet = field(default_factory=lambda: Fleet(100_000, rollouts=1, size=4096))
    requests: int = 200
    changes: int = 4


async def counts(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where wrk is missing."""
    size = size or Size()
    require_wrk()
    figures = await _counts(size, "SQLite", "")
    try:
        with postgres() as url:
            return figures + await _counts(size, "PostgreSQL", url)
    except NotMeasured as why:
        return [*figures, Figure("counts", "PostgreSQL: not measured", str(why))]


async def membership(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where wrk is missing."""
    size = size or Size()
    require_wrk()
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        folder = Path(name)
        async with _known(size.fleet, folder, "") as server:
            seconds: list[float] = []
            stalls: list[_Stall] = []
            still: list[_Stall] = []
            for number in range(size.changes):
                progress(f"membership: change {number + 1} of {size.changes}")
                async with _polling(server, size.fleet, folder) as seen:
                    seconds.append(await _change(server, size.fleet))
                stalls.append(seen)
                async with _polling(server, size.fleet, folder) as seen:
                    await asyncio.sleep(seconds[-1])
                still.append(seen)
    return [_membership_figure(size, seconds, stalls, still)]


async def _counts(size: Size, database: str, url: str) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        folder = Path(name)
        async with _known(size.fleet, folder, url) as server:
            progress(f"counts: asking, {database}")
            taken, least = [], []
            async with httpx.AsyncClient(timeout=_CEILING, trust_env=False) as client:
                for _ in range(size.requests):
                    taken.append(await _timed(client, _rollout(server)))
                    least.append(await _timed(client, _rollout(server, "unknown")))
        progress(f"counts: starting again, {database}")
        start = time.perf_counter()
        async with update_server(size.fleet, folder, environment=_database(url)) as server:
            await _counted(server, size.fleet)
            again = time.perf_counter() - start
    p50, p99 = median(taken) * 1000, percentile(taken, 99) * 1000
    return [
        Figure(
            row="counts",
            measured=f"{size.fleet.devices:,} devices, {database}",
            text=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
            beside=f"no rollout: p50 {median(least) * 1000:.1f} ms; after a restart {again:.1f} s",
            aim=f"≤ {COUNTS_AIM * 1000:.0f} ms",
            values={
                "devices": size.fleet.devices,
                "p50_milliseconds": p50,
                "p99_milliseconds": p99,
                "without_rollout_p50_milliseconds": median(least) * 1000,
                "after_restart_seconds": again,
            },
        )
    ]


@asynccontextmanager
async def _known(fleet: Fleet, folder: Path, url: str) -> AsyncIterator[Running]:
    """A server that knows, and counts, every device of the fleet."""
    progress(f"starting the update server, {fleet.devices:,} devices poll")
    async with update_server(fleet, folder, environment=_database(url)) as server:
        paths = [_path(number, device) for number, device in enumerate(fleet.device_ids)]
        await each_once(server, paths, folder)
        await _counted(server, fleet)
        yield server


async def _counted(server: Running, fleet: Fleet) -> None:
    """Waits until all devices are counted."""
    members = 0
    try:
        async with asyncio.timeout(_CEILING):
            while True:
                members = _members(await _told(server))
                if members >= fleet.devices:
                    return
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise NotMeasured(f"{members} of {fleet.devices} devices were counted") from None


def _path(number: int, device: str) -> str:
    return f"/version?device={device}&version={STABLE if number % 3 else TARGET}"


def _database(url: str) -> dict[str, str]:
    return {"OTAFLUX_EVIDENCE__DATABASE_URL": url}


def _rollout(server: Running, name: str = "product-00") -> str:
    return f"{server.internal}/internal/v1/rollouts/{NAMESPACE}/{name}"


async def _timed(client: httpx.AsyncClient, url: str) -> float:
    start = time.perf_counter()
    reply = await client.get(url)
    seconds = time.perf_counter() - start
    reply.raise_for_status()
    return seconds


async def _told(server: Running) -> RolloutCounts | None:
    async with httpx.AsyncClient(timeout=_CEILING, trust_env=False) as client:
        reply = await client.get(_rollout(server))
    return ServedRollout.model_validate_json(reply.content).counts


def _members(found: RolloutCounts | None) -> int:
    return found.total.members if found is not None else 0


async def _change(server: Running, fleet: Fleet) -> float:
    """Has the policies change; → seconds until the counts are those of the new one."""
    before = await _told(server)
    assert before is not None
    start = time.perf_counter()
    os.kill(server.pid, signal.SIGUSR1)
    async with asyncio.timeout(_CEILING):
        while True:
            after = await _told(server)
            if after is not None and after.revision != before.revision:
                break
            await asyncio.sleep(_LOOK)
    seconds = time.perf_counter() - start
    if _members(after) != fleet.devices or after.rings == before.rings:
        raise NotMeasured(f"{_members(after)} of {fleet.devices} devices were counted anew")
    return seconds


@dataclass(slots=True)
class _Stall:
    """In milliseconds: the longest wait for an answer, and the longest turn of the event loop."""

    wait: float = 0.0
    busy: float = 0.0


@asynccontextmanager
async def _polling(server: Running, fleet: Fleet, folder: Path) -> AsyncIterator[_Stall]:
    """Has devices poll within the block; what is seen is filled in after it."""
    seen, done = _Stall(), threading.Event()
    file = folder / "stalls.json"
    file.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR2)
    polls = asyncio.create_task(asyncio.to_thread(_poll, server, fleet.device_ids, done, seen))
    try:
        yield seen
    finally:
        done.set()
        await polls
        os.kill(server.pid, signal.SIGUSR2)
        seen.busy = json.loads(await _text(file))["busy"]


async def _text(file: Path) -> str:
    """What the file holds, once it is there."""
    async with asyncio.timeout(_CEILING):
        while True:
            if file.exists():
                return file.read_text()
            await asyncio.sleep(_LOOK)


def _poll(server: Running, devices: Sequence[str], done: threading.Event, seen: _Stall) -> None:
    """One poll after the other on one connection: less than a client library would disturb."""
    where = urlsplit(server.url)
    with (
        on_core(cores()[1]),
        socket.create_connection((where.hostname, where.port), timeout=_CEILING) as connection,
    ):
        for number, device in cycle(list(enumerate(devices))[::3]):
            request = f"GET {_path(number, device)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
            start = time.perf_counter()
            connection.sendall(request)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                raise NotMeasured(f"the poll of {device} failed")
            seen.wait = max(seen.wait, (time.perf_counter() - start) * 1000)
            if done.wait(_PAUSE):
                return


def _membership_figure(
    size: Size, seconds: Sequence[float], stalls: Sequence[_Stall], still: Sequence[_Stall]
) -> Figure:
    wait, busy = median(s.wait for s in stalls), max(s.busy for s in stalls)
    rest, rest_busy = median(s.wait for s in still), max(s.busy for s in still)
    return Figure(
        row="membership",
        measured=f"{size.fleet.devices:,} devices, a policy change",
        text=f"{median(seconds):.2f} s, longest stall {wait:.0f} ms (by CPU time {busy:.0f} ms)",
        beside=f"without a change {rest:.0f} ms (by CPU time {rest_busy:.0f} ms)",
        aim=f"≤ {MEMBERSHIP_AIM:.0f} s, no stall over {STALL_AIM * 1000:.0f} ms",
        values={
            "devices": size.fleet.devices,
            "seconds": median(seconds),
            "slowest_seconds": max(seconds),
            "stall_milliseconds": wait,
            "longest_stall_milliseconds": max(s.wait for s in stalls),
            "cpu_stall_milliseconds": busy,
            "without_change_milliseconds": rest,
            "without_change_cpu_milliseconds": rest_busy,
        },
    )
