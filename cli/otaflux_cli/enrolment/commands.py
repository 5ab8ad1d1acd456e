"""`otaflux device`: who may be a device."""

import typer

from otaflux_cli.enrolment import certificates, tokens

app = typer.Typer(
    help="Enrol devices: tokens and certificates by which they prove who they are.",
    no_args_is_help=True,
)
app.add_typer(tokens.app, name="token")
app.add_typer(certificates.app, name="cert")
