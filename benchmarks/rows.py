"""The rows of the benchmark: how each is measured, and measuring some of them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import changes, countings, downloads, first_syncs, openings, polls, recordings
from benchmarks.figures import Figure, NotMeasured, progress
from otaflux_cli.control_plane.processes import CommandFailed, StartFailed

_WITHIN = 300.0
"""Seconds after which a row is given up."""


@dataclass(frozen=True, slots=True)
class Row:
    """`method` is printed under the table; `measure` raises NotMeasured."""

    method: str
    measure: Callable[[], Awaitable[list[Figure]]]


ROWS: Mapping[str, Row] = {
    "polls": Row(polls.METHOD, polls.polls),
    "recording": Row(recordings.METHOD, recordings.recording),
    "counts": Row(countings.COUNTS_METHOD, countings.counts),
    "membership": Row(countings.MEMBERSHIP_METHOD, countings.membership),
    "opening": Row(openings.METHOD, openings.opening),
    "downloads": Row(downloads.METHOD, downloads.downloads),
    "apply-to-decision": Row(changes.METHOD, changes.changes),
    "first-sync": Row(first_syncs.METHOD, first_syncs.first_sync),
}


async def measure(names: Sequence[str]) -> list[Figure]:
    """The figures of these rows, in order; one that cannot be measured says why."""
    return [figure for name in names for figure in await _measure(name)]


async def _measure(name: str) -> list[Figure]:
    try:
        async with asyncio.timeout(_WITHIN):
            return await ROWS[name].measure()
    except TimeoutError:
        why = f"given up after {_WITHIN:.0f} s"
    except (NotMeasured, StartFailed, CommandFailed) as error:
        why = str(error)
    progress(f"{name}: not measured: {why}")
    return [Figure(row=name, measured="not measured", text=why.splitlines()[0])]
