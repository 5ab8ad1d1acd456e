"""How a fleet looks in a terminal, and as lines where there is none."""

import asyncio
from typing import TYPE_CHECKING

from otaflux_cli.outputs import table
from otaflux_cli.simulation.devices import Counted
from otaflux_cli.simulation.fleets import Fleet, Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = ("Version", "State", "Devices", "Share")


def summary_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """One row per version and state: its devices, and a bar of their share."""
    return [
        (version, state, str(count), _bar(count, summary.devices))
        for (version, state), count in summary.by_state.items()
    ]


def summary_table(summary: Summary, title: str) -> "Table":
    """The rows, with what was counted below."""
    made = table(_COLUMNS, summary_rows(summary), title=title)
    made.caption = counted_line(summary)
    made.caption_justify = "left"
    return made


def counted_line(summary: Summary) -> str:
    """What was counted, in one line."""
    counted = summary.counted
    parts = [
        f"{counted[Counted.POLLS]} polls",
        f"{counted[Counted.OFFERS]} offers",
        f"{counted[Counted.DOWNLOADS]} downloads ({counted[Counted.BYTES] / 1048576:.1f} MiB)",
        f"{counted[Counted.RESUMES]} resumed",
        f"{counted[Counted.ERRORS]} errors",
        f"{summary.unreachable} unreachable",
        f"{summary.seconds:.0f} s",
    ]
    return ", ".join(parts)


def summary_data(summary: Summary) -> dict[str, object]:
    """The summary as JSON."""
    return {
        "devices": summary.devices,
        "unreachable": summary.unreachable,
        "seconds": summary.seconds,
        "versions": summary.by_version,
        "states": [
            {"version": version, "state": state, "devices": count}
            for (version, state), count in summary.by_state.items()
        ],
        "counted": {str(what): count for what, count in summary.counted.items()},
    }


async def show(fleet: Fleet, console: "Console", title: str) -> None:
    """Show the fleet until cancelled: live in a terminal, else a line where something changed."""
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while True:
                live.update(summary_table(fleet.summary(), title))
                await asyncio.sleep(0.25)
    shown = None
    while True:
        summary = fleet.summary()
        if summary.by_state != shown:
            shown = summary.by_state
            states = [f"{version} {state} {n}" for (version, state), n in shown.items()]
            console.print(f"{summary.seconds:6.1f} s  {', '.join(states)}", soft_wrap=True)
        await asyncio.sleep(1)


def _bar(count: int, of: int, width: int = 30) -> str:
    return "█" * max(1, round(width * count / of)) if count else ""
