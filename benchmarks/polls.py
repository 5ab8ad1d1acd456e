"""`polls`: `/version` beside the least that uvicorn can do on the same core."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx

from benchmarks.figures import Figure, NotMeasured, progress, ratio
from benchmarks.fleets import Fleet
from benchmarks.loads import CONNECTIONS, Load, each_once, require_wrk, wrk
from benchmarks.servers import Running, bare_uvicorn, update_server

AIM = 0.8
METHOD = (
    "The update server with records and metrics as always, on one core; wrk on the other, "
    f"{CONNECTIONS} keep-alive connections, the devices in turn, all of them known. uvicorn "
    "(httptools, uvloop, no access log) sends a fixed body of the same size to the same requests. "
    "Runs alternate; medians. The ratio by CPU time is that of requests per second of the "
    "server's own CPU time, which other processes disturb less."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; `runs` of each server, in turn."""

    fleet: Fleet = field(default_factory=lambda: Fleet(size=4096))
    runs: int = 5
    seconds: int = 4


async def polls(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where wrk is missing."""
    size = size or Size()
    require_wrk()
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        folder = Path(name)
        progress("polls: starting the update server")
        async with update_server(size.fleet, folder) as server:
            paths = [f"/version?device={device}" for device in size.fleet.device_ids]
            body_size = await _make_known(server, paths, folder)
            async with bare_uvicorn(body_size, folder) as bare:
                return [await _compare(size, server, bare, paths, folder)]


async def _make_known(server: Running, paths: list[str], folder: Path) -> int:
    """Polls at least once for each device; → the size of an answer."""
    async with httpx.AsyncClient(base_url=server.url, timeout=10, trust_env=False) as client:
        reply = await client.get(paths[0])
    if reply.status_code != 200:
        raise NotMeasured(f"{paths[0]} was answered {reply.status_code} {reply.text.strip()}")
    await each_once(server, paths, folder)
    return len(reply.content)


async def _compare(
    size: Size, server: Running, bare: Running, paths: list[str], folder: Path
) -> Figure:
    ours: list[Load] = []
    least: list[Load] = []
    for run in range(size.runs):
        progress(f"polls: run {run + 1} of {size.runs}")
        for measured, loads in ((server, ours), (bare, least)):
            load = await wrk(measured, paths, folder, connections=CONNECTIONS, seconds=size.seconds)
            loads.append(load)
    rate, bare_rate = ([load.rate for load in loads] for loads in (ours, least))
    cpu_rate, bare_cpu_rate = ([load.cpu_rate for load in loads] for loads in (ours, least))
    p99 = median(load.p99_milliseconds for load in ours)
    part, cpu_part = ratio(rate, bare_rate), ratio(cpu_rate, bare_cpu_rate)
    return Figure(
        row="polls",
        measured=f"/version: {size.fleet.devices:,} devices, {size.fleet.rollouts} rollouts",
        text=f"{median(rate):,.0f} requests/s, p99 {p99:.1f} ms",
        beside=f"bare uvicorn {median(bare_rate):,.0f}: {part:.2f}; by CPU time {cpu_part:.2f}",
        aim=f"≥ {AIM} of bare",
        values={
            "requests_per_second": median(rate),
            "p99_milliseconds": p99,
            "bare_requests_per_second": median(bare_rate),
            "ratio": part,
            "requests_per_cpu_second": median(cpu_rate),
            "bare_requests_per_cpu_second": median(bare_cpu_rate),
            "ratio_by_cpu_time": cpu_part,
        },
    )
