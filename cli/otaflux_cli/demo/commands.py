"""`otaflux demo`."""

from typing import TYPE_CHECKING, Annotated

import typer

from otaflux_cli.errors import INTERRUPTED, UserError
from otaflux_cli.outputs import console

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from otaflux_cli.demo.backdrops import Backdrop
    from otaflux_cli.demo.displays import Stage

_MANY_SECONDS = 60


def demo(
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Without Kubernetes: Python alone, seconds.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it up at the end, until Ctrl-C, to look around.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines only, also in a terminal.")] = False,
    pause: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds to look between the two releases.")
    ] = 1.0,
) -> None:
    """See two rollouts: a good release through three rings, a bad one stopped and taken back.

    It brings up a Kubernetes API server, a registry, operator and update server on 127.0.0.1,
    and leaves nothing running. Where the programs for that cannot be had, it tells the same
    story without Kubernetes.

    [bold]Examples[/bold]

        otaflux demo

        otaflux demo --keep

        otaflux demo --standalone --plain
    """
    import asyncio

    if not standalone:
        standalone = not _prepared()
    try:
        ended = asyncio.run(_run(standalone, keep, plain, pause))
    except KeyboardInterrupt:
        ended = False
    if not ended:
        raise typer.Exit(INTERRUPTED)


def _prepared() -> bool:
    """Whether the control plane is on this machine, by now."""
    from otaflux_cli.control_plane.builds import BuildFailed, GoUnusable
    from otaflux_cli.control_plane.finding import PartMissing
    from otaflux_cli.control_plane.preparing import (
        build_seconds,
        duration,
        missing_parts,
        prepare,
    )
    from otaflux_cli.demo.clusters import PARTS

    try:
        missing = missing_parts(PARTS)
        if missing:
            names = ", ".join(part.name for part in missing)
            typer.echo(f"Not on this machine yet: {names}. They are fetched, or built with Go.")
        if missing and build_seconds(missing) > _MANY_SECONDS:
            typer.echo(
                f"Building takes about {duration(build_seconds(missing))}, once. "
                "`make demo-standalone` tells the same story in seconds, with Python alone."
            )
        prepare(PARTS)
    except (PartMissing, GoUnusable, BuildFailed, ValueError, OSError) as error:
        typer.secho(f"No control plane can be had here: {error}", fg="yellow")
        typer.echo("So this is the same story without Kubernetes.")
        return False
    return True


async def _run(standalone: bool, keep: bool, plain: bool, pause: float) -> bool:
    """Whether the story was told to its end; False: somebody ended it."""
    import asyncio
    import signal
    import tempfile
    from pathlib import Path

    from otaflux_cli.control_plane.finding import PartMissing
    from otaflux_cli.control_plane.processes import CommandFailed, StartFailed
    from otaflux_cli.demo.backdrops import DemoFailed
    from otaflux_cli.demo.displays import Stage

    loop, told = asyncio.get_running_loop(), asyncio.current_task()
    if told is None:
        raise RuntimeError("not in a task")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.cancel)
    with tempfile.TemporaryDirectory(prefix="otaflux-demo-") as folder:
        try:
            async with Stage(console(), plain=plain) as stage:
                await _tell(Path(folder), stage, standalone, keep, pause)
        except asyncio.CancelledError:
            return False
        except (DemoFailed, StartFailed, CommandFailed, PartMissing) as error:
            raise UserError(str(error)) from None
    return True


async def _tell(folder: "Path", stage: "Stage", standalone: bool, keep: bool, pause: float) -> None:
    """Ends cancelled where somebody ends it before the story does."""
    import asyncio
    from contextlib import suppress

    from otaflux_cli.demo.stories import tell

    async with _backdrop(standalone, folder, lambda text: stage.say(f"up: {text}")) as backdrop:
        stage.say(f"The story is told on {backdrop.name}.")
        await tell(backdrop, stage, pause=pause)
        stage.say("The end:")
        stage.finish()
        command, shown = await backdrop.overview()
        stage.command(command)
        stage.text(shown)
        if keep:
            stage.say("It stays up until Ctrl-C. To look around:")
            stage.hints(backdrop.hints(), up=True)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        else:
            stage.say("With --keep (make demo DEMO=--keep) it stays up. To look around, then:")
            stage.hints(backdrop.hints(), up=False)
    stage.say("Nothing is left running.")


def _backdrop(
    standalone: bool, folder: "Path", report: "Callable[[str], None]"
) -> "AbstractAsyncContextManager[Backdrop]":
    if standalone:
        from otaflux_cli.demo.hosts import host

        return host(folder, report)
    from otaflux_cli.demo.clusters import cluster

    return cluster(folder, report)
