"""`downloads`: images of 1 MiB beside nginx, which serves the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import httpx

from benchmarks.figures import Figure, NotMeasured, progress, ratio
from benchmarks.fleets import Fleet
from benchmarks.loads import Load, require_wrk, wrk
from benchmarks.servers import Running, nginx, stored_files, update_server

CONNECTIONS = 16
METHOD = (
    "Update server and nginx (sendfile, one process) on the same core with the same files, wrk on "
    "the other core. /firmware ends its connection, as its clients expect, so nginx is asked to, "
    "too. Runs alternate; medians; MB are 10⁶ bytes."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; `runs` of each server and path, in turn."""

    fleet: Fleet = field(default_factory=lambda: Fleet(devices=2_000))
    runs: int = 3
    seconds: int = 3


@dataclass(frozen=True, slots=True)
class _Way:
    """A path, the same in nginx, and whether each download has a connection of its own."""

    measured: str
    ours: Sequence[str]
    files: Sequence[str]
    close: bool


async def downloads(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where wrk is missing."""
    size = size or Size()
    require_wrk()
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            progress("downloads: starting the update server")
            server = await stack.enter_async_context(update_server(size.fleet, folder))
            devices = size.fleet.device_ids[: size.fleet.rollouts]
            files = [f"/{size.fleet.digest(number)}" for number in range(len(devices))]
            await _pin(server, devices)
            try:
                beside = await stack.enter_async_context(nginx(stored_files(folder), folder))
                missing = ""
            except NotMeasured as why:
                beside, missing = None, str(why)
            artifacts = [
                f"/artifacts/sha256{file}?device={device}"
                for file, device in zip(files, devices, strict=True)
            ]
            firmware = [f"/firmware?device={device}" for device in devices]
            return [
                await _compare(size, way, server, beside, missing, folder)
                for way in (
                    _Way("/firmware, a connection for each", firmware, files, close=True),
                    _Way("/artifacts/sha256/…, keep-alive", artifacts, files, close=False),
                )
            ]


async def _pin(server: Running, devices: Sequence[str]) -> None:
    """Asks `/version` for each device: `/firmware` gives what that announced, for minutes.

    Each says that it runs the release: it may download it as often as it likes, while three
    complete downloads of a device that does not are a failure.
    """
    async with httpx.AsyncClient(base_url=server.url, timeout=10, trust_env=False) as client:
        for device in devices:
            known: dict[str, str] = {}
            for _ in range(2):
                reply = await client.get("/version", params={"device": device, **known})
                if reply.status_code != 200:
                    raise NotMeasured(
                        f"{device} was answered {reply.status_code} {reply.text.strip()}"
                    )
                known = {"version": reply.text.split("\n")[0]}


async def _compare(
    size: Size, way: _Way, server: Running, beside: Running | None, missing: str, folder: Path
) -> Figure:
    async def load(measured: Running, paths: Sequence[str]) -> Load:
        return await wrk(
            measured, paths, folder,
            connections=CONNECTIONS, seconds=size.seconds, close=way.close,
        )  # fmt: skip

    ours: list[Load] = []
    theirs: list[Load] = []
    for run in range(size.runs):
        progress(f"downloads: {way.measured}: run {run + 1} of {size.runs}")
        ours.append(await load(server, way.ours))
        if beside is not None:
            theirs.append(await load(beside, way.files))
    speed = [load.throughput for load in ours]
    figure = Figure(
        row="downloads",
        measured=f"{way.measured}: {size.fleet.size / 2**20:g} MiB, {CONNECTIONS} at once",
        text=f"{median(speed):,.0f} MB/s",
        beside=missing,
        values={"megabytes_per_second": median(speed)},
    )
    if not theirs:
        return figure
    nginx_speed = [load.throughput for load in theirs]
    part = ratio(speed, nginx_speed)
    return replace(
        figure,
        beside=f"nginx {median(nginx_speed):,.0f}: {part:.2f}",
        values={
            **figure.values,
            "nginx_megabytes_per_second": median(nginx_speed),
            "ratio": part,
        },
    )
