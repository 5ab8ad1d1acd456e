"""`opening`: from the opening of a rollout to the last of 2 000 devices that may update."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.figures import Figure, NotMeasured, progress
from benchmarks.fleets import TARGET, Change, Fleet
from benchmarks.machines import cores
from benchmarks.servers import ROOT, postgres, program, update_server
from otaflux_cli.control_plane.processes import run_command

AIM = 0.5
METHOD = (
    "Every device has a connection of its own, has polled before, and reports that it runs the "
    "stable release. Then all rings open at once. Each device polls, within one second or all in "
    "the same instant, and again 10 ms after each answer that is not the release yet; the clock of "
    "a device runs from its first poll to the answer with the release. Every first offer is in the "
    "database before it is answered. Devices on one core, the server on the other, PostgreSQL on "
    "both. Beside it, the median device."
)

_TIMEOUT = 90.0


@dataclass(frozen=True, slots=True)
class Size:
    """Devices, and over how many seconds their polls are spread."""

    fleet: Fleet = field(default_factory=lambda: Fleet(2_000, rollouts=1, size=4096))
    spreads: tuple[float, ...] = (1.0, 0.0)


async def opening(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where a poll fails; without PostgreSQL that part is missing."""
    size = size or Size()
    figures = await _opening(size, "SQLite", "")
    try:
        with postgres() as url:
            return figures + await _opening(size, "PostgreSQL", url)
    except NotMeasured as why:
        return [*figures, Figure("opening", "PostgreSQL: not measured", str(why))]


async def _opening(size: Size, database: str, url: str) -> list[Figure]:
    figures = []
    for spread in size.spreads:
        progress(f"opening: {database}, polls within {spread:g} s")
        with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
            found = await _open(size.fleet, Path(name), url, spread)
        how = f"within {spread:g} s" if spread else "in one instant"
        figures.append(
            Figure(
                row="opening",
                measured=f"{size.fleet.devices:,} devices poll {how}, {database}",
                text=f"the last one {found['last']:.0f} ms after its poll",
                beside=f"median {found['median']:.1f} ms; {found['again']:.0f} polled again",
                aim=f"≤ {AIM * 1000:.0f} ms",
                values={
                    "devices": size.fleet.devices,
                    "last_milliseconds": found["last"],
                    "median_milliseconds": found["median"],
                    "polled_again": found["again"],
                },
            )
        )
    return figures


async def _open(fleet: Fleet, folder: Path, url: str, spread: float) -> dict[str, float]:
    environment = {"OTAFLUX_EVIDENCE__DATABASE_URL": url}
    async with update_server(fleet, folder, change=Change.OPEN, environment=environment) as server:
        ports = [urlsplit(address).port for address in (server.url, server.internal)]
        output = await run_command(
            program(
                "polling_devices",
                cores()[1], *ports, server.pid, fleet.devices, TARGET, spread,
            ),
            environment={"PYTHONPATH": str(ROOT)},
            timeout=_TIMEOUT,
        )  # fmt: skip
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found
