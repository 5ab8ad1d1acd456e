"""The `otaflux` command: one module or folder per command, loaded light, working late."""

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from otaflux_cli.database import commands as database
from otaflux_cli.demo import commands as demo
from otaflux_cli.enrolment import commands as enrolment
from otaflux_cli.errors import INTERRUPTED, UserError
from otaflux_cli.firmware import commands as firmware
from otaflux_cli.inspection import commands as inspection
from otaflux_cli.simulation import commands as simulation
from otaflux_cli.standalone import commands as standalone

app = typer.Typer(
    name="otaflux",
    help="Firmware rollouts, ring by ring, from an OCI registry to the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.add_typer(firmware.app, name="firmware")
app.command("simulate")(simulation.simulate)
app.command("standalone")(standalone.standalone)
app.command("rollouts")(standalone.rollouts)
app.command("explain")(inspection.explain)
app.command("preview")(inspection.preview)
app.command("devices")(inspection.devices)
app.add_typer(enrolment.app, name="device")
app.add_typer(database.app, name="db")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("otaflux"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: the entry point of `otaflux` and `kubectl otaflux`."""
    try:
        app(args=None if arguments is None else list(arguments))
    except UserError as error:
        typer.secho("Error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        if error.hint:
            typer.echo(error.hint, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
