"""`first-sync`: an operator that starts where many rollouts exist already."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clusters import Cluster, cluster
from benchmarks.figures import Figure, NotMeasured, progress
from tests.e2e.installations import UNCONDITIONAL, Firmware, rollout

_CEILING = 90.0
_STEP = 0.02
_CREATING_AT_ONCE = 8
METHOD = (
    "The rollouts exist before the operator starts and share one image of 20 kB; each has a device "
    "of its own. Ends when /version of every device tells the release: resolved, published, stored "
    "and served. The start of the operator's process is part of it."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many rollouts there are."""

    rollouts: int = 500


async def first_sync(size: Size | None = None) -> list[Figure]:
    """Raises NotMeasured where a server is missing or the operator is not done in 90 s."""
    size = size or Size()
    firmware = Firmware.make("1.4.0")
    with tempfile.TemporaryDirectory(prefix="otaflux-bench-") as name:
        async with cluster(Path(name)) as running:
            await running.installation.operator.stop()
            await running.push(firmware)
            progress(f"first-sync: creating {size.rollouts} rollouts")
            await _create(running, size.rollouts, firmware)
            progress("first-sync: starting the operator")
            start = time.perf_counter()
            await running.installation.operator.start()
            for number in range(size.rollouts):
                while await running.installation.version(_device(number)) != firmware.answer:
                    if time.perf_counter() - start > _CEILING:
                        raise NotMeasured(
                            f"after {_CEILING:.0f} s only the first {number} rollouts are served"
                        )
                    await asyncio.sleep(_STEP)
            seconds = time.perf_counter() - start
    return [
        Figure(
            row="first-sync",
            measured=f"{size.rollouts} rollouts, one artifact, from the start of the operator",
            text=f"{seconds:.1f} s, {size.rollouts / seconds:.0f} rollouts/s",
            values={"seconds": seconds, "rollouts": size.rollouts},
        )
    ]


def _device(number: int) -> str:
    return f"device-{number}"


async def _create(running: Cluster, count: int, firmware: Firmware) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await running.create(
                rollout(
                    running.repository,
                    firmware.version,
                    name=f"rollout-{number}",
                    deviceSelector={"names": [_device(number)]},
                    rings=[{"name": "all", "success": UNCONDITIONAL}],
                )
            )

    await asyncio.gather(*(some() for _ in range(_CREATING_AT_ONCE)))
