"""`apply-to-decision`: from a change in the API server to the changed answer of a device."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.clusters import Cluster, cluster
from benchmarks.figures import Figure, NotMeasured, percentile, progress
from tests.e2e.installations import (
    UNCONDITIONAL,
    Firmware,
    Installation,
    approval,
    canaries,
    rollout,
)

AIM = 0.5
CANARY, OTHER, GUEST = "kitchen-1", "hall-1", "guest-1"
NAME, PASSING = "thermostat", "passing"
METHOD = (
    "A real API server and registry, operator and update server as processes; one device asks "
    "/version every few milliseconds. The clock starts when the change is sent to the API server "
    "and ends with the changed answer; `tag` includes resolving it and pulling a new image of "
    "20 kB. Everything runs on the cores of this machine."
)

_STEP = 0.003
_CEILING = 30.0
_WITHIN = 150.0


@dataclass(frozen=True, slots=True)
class Size:
    """A round is seven changes."""

    rounds: int = 15


@dataclass(slots=True)
class _Times:
    """Seconds by kind of change."""

    of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def take(
        self,
        kind: str,
        installation: Installation,
        change: Awaitable[None],
        device: str,
        want: Firmware | int,
    ) -> None:
        """Makes the change and waits for the device's answer; the clock starts before it is sent.

        Raises:
            NotMeasured: the answer did not come within 30 s.
        """
        wanted = want.answer if isinstance(want, Firmware) else want
        start = time.perf_counter()
        await change
        while (answer := await installation.version(device)) != wanted:
            if time.perf_counter() - start > _CEILING:
                raise NotMeasured(f"{_CEILING:.0f} s after {kind}, {device} still gets {answer!r}")
            await asyncio.sleep(_STEP)
        self.of[kind].append(time.perf_counter() - start)


async def changes(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where a server is missing or a change does not reach its device."""
    size = size or Size()
    times = _Times()
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        async with cluster(Path(name)) as running:
            first = Firmware.make("1.0.0")
            await _prepare(running, first)
            deadline = time.monotonic() + _WITHIN
            for number in range(size.rounds):
                progress(f"apply-to-decision: round {number + 1} of {size.rounds}")
                await _round(running, times, number, first)
                if time.monotonic() > deadline:
                    progress("apply-to-decision: stopped, it has taken long enough")
                    break
    return list(_figures(times.of))


async def _prepare(running: Cluster, first: Firmware) -> None:
    await running.push(first)
    await running.create_group(canaries(CANARY))
    await running.create(
        rollout(running.repository, first.version, approvals=[approval(first.version)])
    )
    await running.reaches(NAME, "Completed", first.version)


async def _round(running: Cluster, times: _Times, number: int, first: Firmware) -> None:
    """Two releases, one completed and one aborted, and a second rollout that comes and goes."""
    kept, dropped = (Firmware.make(f"1.{number + 1}.{patch}") for patch in (0, 1))
    await running.push(kept)
    await running.push(dropped)
    await _take(running, times, "tag", _tag(kept), CANARY, kept)
    await running.reaches(NAME, "AwaitingApproval", kept.version)
    await _take(running, times, "pause", {"state": "Paused"}, CANARY, 404)
    await running.reaches(NAME, "Paused")
    await _take(running, times, "resume", {"state": "Active"}, CANARY, kept)
    await running.reaches(NAME, "AwaitingApproval")
    await _take(running, times, "approval", {"approvals": [approval(kept.version)]}, OTHER, kept)
    await running.reaches(NAME, "Completed", kept.version)
    await _take(running, times, "tag", _tag(dropped), CANARY, dropped)
    await running.reaches(NAME, "AwaitingApproval", dropped.version)
    await _take(running, times, "abort", {"state": "Aborted"}, CANARY, 404)
    await running.reaches(NAME, "Aborted")
    await running.create(_passing(running, first))
    await running.installation.gets(GUEST, first)
    await running.reaches(PASSING, "Completed")
    await times.take("delete", running.installation, running.delete(PASSING), GUEST, 404)


async def _take(
    running: Cluster,
    times: _Times,
    kind: str,
    spec: Mapping[str, Any],
    device: str,
    want: Firmware | int,
) -> None:
    change = running.patch(NAME, dict(spec))
    await times.take(kind, running.installation, change, device, want)


def _tag(firmware: Firmware) -> dict[str, Any]:
    return {"artifact": {"tag": firmware.version}, "state": "Active"}


def _passing(running: Cluster, firmware: Firmware) -> dict[str, Any]:
    return rollout(
        running.repository,
        firmware.version,
        name=PASSING,
        priority=1,
        deviceSelector={"names": [GUEST]},
        rings=[{"name": "all", "success": UNCONDITIONAL}],
    )


def _figures(times: Mapping[str, Sequence[float]]) -> list[Figure]:
    every = [seconds for kind in times.values() for seconds in kind]
    return [
        _figure("all changes", every, aim=f"p99 ≤ {AIM * 1000:.0f} ms, plus the pull"),
        *(_figure(kind, taken) for kind, taken in times.items()),
    ]


def _figure(kind: str, taken: Sequence[float], aim: str = "") -> Figure:
    p50, p99 = median(taken) * 1000, percentile(taken, 99) * 1000
    return Figure(
        row="apply-to-decision",
        measured=f"{kind} ({len(taken)})",
        text=f"p50 {p50:.0f} ms, p99 {p99:.0f} ms",
        aim=aim,
        values={"changes": len(taken), "p50_milliseconds": p50, "p99_milliseconds": p99},
    )
