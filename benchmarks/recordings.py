"""`recording`: polls with the record of what devices do, beside polls without."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, progress, ratio
from benchmarks.fleets import STABLE, TARGET, Fleet
from benchmarks.loads import CONNECTIONS, Load, each_once, require_wrk, wrk
from benchmarks.servers import update_server

AIM = 0.85
METHOD = (
    "The load of `polls`, on two update servers with the same fleet: one as always, on SQLite, one "
    "of which neither memory nor database notes what polls tell. All devices are known before. "
    "`reporting`: each tells the version that it runs, a third the release; those of open rings "
    "that do not are in flight, and every poll of theirs is recorded. `silent`: none tells any, "
    "and all are in flight: no fleet does worse. Runs alternate; medians. The ratio by CPU time is "
    "that of requests per second of the server's own CPU time, which other processes disturb less."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; `runs` of each server, in turn."""

    fleet: Fleet = field(default_factory=lambda: Fleet(size=4096))
    runs: int = 5
    seconds: int = 4


async def recording(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where wrk is missing."""
    size = size or Size()
    require_wrk()
    ids = size.fleet.device_ids
    silent = [f"/version?device={device}" for device in ids]
    reporting = [
        f"{path}&version={STABLE if number % 3 else TARGET}" for number, path in enumerate(silent)
    ]
    return [
        await _compare(size, "reporting", reporting),
        await _compare(size, "silent", silent),
    ]


async def _compare(size: Size, what: str, paths: list[str]) -> Figure:
    loads: dict[bool, list[Load]] = {True: [], False: []}
    async with AsyncExitStack() as stack:
        servers, folders = {}, {}
        for on in loads:
            progress(f"recording: starting an update server, {what} devices")
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="otaflux-bench-"))
            folder = folders[on] = Path(name)
            server = update_server(size.fleet, folder, recording=on)
            servers[on] = await stack.enter_async_context(server)
            await each_once(servers[on], paths, folder)
        for run in range(size.runs):
            progress(f"recording: {what} devices, run {run + 1} of {size.runs}")
            for on, server_loads in loads.items():
                server_loads.append(
                    await wrk(
                        servers[on], paths, folders[on],
                        connections=CONNECTIONS, seconds=size.seconds,
                    )
                )  # fmt: skip
    rate, bare = ([load.rate for load in loads[on]] for on in (True, False))
    cpu_rate, bare_cpu_rate = ([load.cpu_rate for load in loads[on]] for on in (True, False))
    part, cpu_part = ratio(rate, bare), ratio(cpu_rate, bare_cpu_rate)
    return Figure(
        row="recording",
        measured=f"/version: {size.fleet.devices:,} {what} devices",
        text=f"{median(rate):,.0f} requests/s",
        beside=f"without {median(bare):,.0f}: {part:.2f}; by CPU time {cpu_part:.2f}",
        aim=f"≥ {AIM} of without",
        values={
            "requests_per_second": median(rate),
            "without_requests_per_second": median(bare),
            "ratio": part,
            "ratio_by_cpu_time": cpu_part,
        },
    )
