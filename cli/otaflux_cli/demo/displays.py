"""How the demo looks: lines that stay, and below them a table that moves (in a terminal)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from otaflux_cli.demo.backdrops import RINGS, Hints
from otaflux_cli.outputs import table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from otaflux_cli.simulation.fleets import Fleet

_BAR = 24
_PHASES = {
    "Complete": "green",
    "Open": "yellow",
    "Soaking": "yellow",
    "AwaitingApproval": "magenta",
    "Failed": "red",
    "RollingBack": "yellow",
    "Stalled": "red",
}
_PHASE_WORDS = {
    "Open": "open, its devices are offered the release",
    "Soaking": "enough devices run it, soaking",
    "Complete": "complete",
    "AwaitingApproval": "waits for a person's approval",
    "Failed": "failed",
    "Skipped": "skipped, it has no devices",
}


@dataclass
class Scene:
    """What there is to see now."""

    rollout: Mapping[str, Any] = field(default_factory=dict)
    fleet: "Fleet | None" = None
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    versions: tuple[str, ...] = ()

    @property
    def status(self) -> Mapping[str, Any]:
        """The rollout's status."""
        found: Mapping[str, Any] = self.rollout.get("status", {})
        return found

    def ring_phase(self, ring: str) -> str:
        """The phase of a ring in the current run."""
        for entry in self.status.get("rings", ()):
            if entry["name"] == ring:
                return str(entry.get("phase", "Pending"))
        return "Pending"

    def counts(self, ring: str) -> dict[str, int]:
        """Devices of a ring, by the version that they run."""
        wanted = set(self.members.get(ring, ()))
        counted = dict.fromkeys(self.versions, 0)
        for device in self.fleet.devices if self.fleet else ():
            if device.id in wanted:
                counted[device.version] = counted.get(device.version, 0) + 1
        return counted

    def all_run(self, ring: str, version: str) -> bool:
        """Whether every device of a ring runs `version`."""
        wanted = set(self.members.get(ring, ()))
        devices = self.fleet.devices if self.fleet else []
        return all(device.version == version for device in devices if device.id in wanted)


class Stage:
    """Shows a scene while it is open; without a terminal (or with `plain`) as lines only."""

    def __init__(self, console: "Console", *, plain: bool) -> None:
        self.scene = Scene()
        self._console = console
        self._live: Live | None = None
        self._plain = plain or not console.is_terminal
        self._started = monotonic()
        self._shown = ""
        self._phases: dict[str, tuple[object, str]] = {}
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Stage":
        if not self._plain:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._refreshing = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Since the stage was made."""
        return monotonic() - self._started

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._print(f"[dim]{self.seconds:5.1f} s[/dim]  ", text, style)

    def tell_rings(self) -> None:
        """A line for each ring whose phase is another than before."""
        run = self.scene.status.get("run")
        for ring in self.scene.status.get("rings", ()):
            name, phase = ring["name"], ring.get("phase", "Pending")
            known = self._phases.get(name)
            self._phases[name] = (run, phase)
            if known == (run, phase) or phase == "Pending":
                continue
            devices, updated, failed = (
                ring.get(what) or 0 for what in ("devices", "updated", "failed")
            )
            counts = f", {updated} of {devices} updated" if devices else ""
            counts += f", {failed} failed" if failed else ""
            self.say(f"ring {name}: {_PHASE_WORDS.get(phase, phase)}{counts}", "magenta")

    def command(self, text: str) -> None:
        """What a user would have typed."""
        self._print("         [bold]$[/bold] ", text, "bold cyan")

    def finish(self) -> None:
        """The last picture, to stay; what follows are lines."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        picture = self._picture()
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._console.print(picture)

    def text(self, text: str) -> None:
        """What a command printed."""
        for line in text.splitlines():
            self._print("           ", line, "")

    def hints(self, hints: Hints, *, up: bool) -> None:
        """How to look around; what to set first only where it is still up."""
        for line in hints.setup if up else ():
            self.command(line)
        for what, command in hints.commands:
            self._print(f"  {what:<24}", command, "cyan")

    def scene_table(self) -> "Table":
        """The rings, and the devices of each by version."""
        scene = self.scene
        return table(
            ("Ring", "Phase", "Devices", *scene.versions, ""),
            [
                (
                    ring,
                    _coloured(scene.ring_phase(ring)),
                    len(scene.members.get(ring, ())) or "",
                    *(count or "" for count in scene.counts(ring).values()),
                    self._bar(ring),
                )
                for ring in RINGS
            ],
        )

    def _print(self, before: str, text: str, style: str) -> None:
        from rich.text import Text

        line = Text.from_markup(before)
        line.append(text, style=style)
        self._console.print(line, soft_wrap=True)

    async def _refresh(self) -> None:
        while True:
            if self._live is not None:
                self._live.update(self._picture(), refresh=True)
            else:
                self._print_changes()
            await asyncio.sleep(0.2 if self._live else 1.0)

    def _picture(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        if not self.scene.rollout:
            return Text("")
        return Group("", self.scene_table(), self._state_line())

    def _state_line(self) -> str:
        status = self.scene.status
        release = (status.get("release") or {}).get("version", "none yet")
        stable = (status.get("stableRelease") or {}).get("version", "none yet")
        return (
            f"Release [bold]{release}[/bold], stable [bold]{stable}[/bold], "
            f"phase {_coloured(status.get('phase', 'Pending'))}: {status.get('message', '')}"
        )

    def _print_changes(self) -> None:
        scene = self.scene
        if not scene.members:
            return
        rings = []
        for ring in RINGS:
            counts = [f"{n} on {version}" for version, n in scene.counts(ring).items() if n]
            rings.append(f"{ring} {scene.ring_phase(ring)} ({', '.join(counts) or 'no devices'})")
        line = "; ".join(rings)
        if line != self._shown:
            self._shown = line
            self.say(line)

    def _bar(self, ring: str) -> str:
        counts = self.scene.counts(ring)
        of = sum(counts.values())
        if not of or not self.scene.versions:
            return ""
        filled = round(_BAR * counts[self.scene.versions[-1]] / of)
        return f"[green]{'█' * filled}[/green][dim]{'░' * (_BAR - filled)}[/dim]"


def _coloured(phase: str) -> str:
    colour = _PHASES.get(phase)
    return f"[{colour}]{phase}[/{colour}]" if colour else phase
