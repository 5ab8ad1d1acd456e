"""`otaflux standalone` and `otaflux rollouts`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, print_rows, remark
from otaflux_cli.places import DEFAULT_DATA, DEFAULT_LAYOUT, DEFAULT_MANIFESTS

if TYPE_CHECKING:
    from otaflux_server.settings import Settings

_EXAMPLE = "firmware.yaml"


def standalone(
    manifests: Annotated[
        Path, typer.Option(help="The folder with FirmwareRollouts and DeviceGroups (YAML).")
    ] = DEFAULT_MANIFESTS,
    data: Annotated[
        Path, typer.Option(help="Where status, artifacts and the record of devices are kept.")
    ] = DEFAULT_DATA,
    layout: Annotated[
        Path, typer.Option(help="The OCI image layout that `otaflux firmware add` fills.")
    ] = DEFAULT_LAYOUT,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices connect.")
    ] = "0.0.0.0:8080",
    internal_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Internal API, health and metrics.")
    ] = "127.0.0.1:8081",
    init: Annotated[
        bool, typer.Option("--init", help="Write an example manifest to begin with, and end.")
    ] = False,
) -> None:
    """Serve firmware without Kubernetes: manifests from a folder, status in a file.

    Manifests are the same as in a cluster and are read again when they change; a file that is
    not valid is logged and leaves the last valid content in use. Artifacts come from the layout
    for what it holds, and from registries for the rest. The update server's other settings apply
    too (docs/reference/settings.md): OTAFLUX_NATIVE__DEFAULT_DEVICE=kitchen-1 admits one client
    that sends no device id. Where OTAFLUX_IDENTITY__KIND is not set, devices are believed to be
    what they say; where OTAFLUX_INTERNAL__AUTHENTICATION is not, whoever reaches the internal
    address may ask it.

    [bold]Examples[/bold]

        otaflux standalone --init

        otaflux standalone

        otaflux standalone --manifests /etc/otaflux --data /var/lib/otaflux --listen 0.0.0.0:80

    Look at it with [bold]otaflux rollouts[/bold], [bold]otaflux devices[/bold] and
    [bold]otaflux explain DEVICE[/bold]. Ctrl-C ends it.
    """
    import asyncio

    if init:
        _write_example(manifests)
        return
    if not manifests.is_dir():
        raise UserError(
            f"there is no folder {manifests} with manifests",
            hint="Make it and put a FirmwareRollout there, or let --init write an example.",
        )
    settings = _settings(listen, internal_listen, data)
    asyncio.run(_serve(manifests, data, layout, settings))


def rollouts(
    data: Annotated[Path, typer.Option(help="The data folder of standalone.")] = DEFAULT_DATA,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the rollouts of a standalone server: release, phase, rings.

    [bold]Examples[/bold]

        otaflux rollouts

        otaflux rollouts --data /var/lib/otaflux -o json

    In a cluster: kubectl get fwr
    """
    from otaflux_cli.standalone.databases import Database, DatabaseUnusable
    from otaflux_operator.ports import Kind

    try:
        database = Database(data, read_only=True)
        found = database.resources(Kind.ROLLOUT)
        database.close()
    except DatabaseUnusable as error:
        raise UserError(str(error), hint="Give its --data folder.") from None
    if not found and output is Output.TABLE:
        remark("No rollouts: none of the manifests holds a valid FirmwareRollout.")
        return
    print_rows(
        output,
        ("Namespace", "Name", "Version", "Stable", "Phase", "Rings", "Message"),
        [_row(resource) for resource in found],
        found,
    )


def _row(resource: dict[str, Any]) -> tuple[str, ...]:
    status, metadata = resource["status"], resource["metadata"]
    return (
        metadata["namespace"],
        metadata["name"],
        (status.get("release") or {}).get("version", ""),
        (status.get("stableRelease") or {}).get("version", ""),
        status.get("phase", "Pending"),
        status.get("ringSummary", ""),
        status.get("message", ""),
    )


async def _serve(manifests: Path, data: Path, layout: Path, settings: "Settings") -> None:
    import asyncio
    import signal

    from otaflux_cli.standalone.databases import DatabaseUnusable
    from otaflux_cli.standalone.running import AlreadyRunning, standalone
    from otaflux_server.logs import configure
    from otaflux_server.serving import DataDirInUse
    from otaflux_server.slices import seldom_collect
    from otaflux_server.tls.generations import TlsUnusable

    configure(settings)
    seldom_collect()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with standalone(manifests, data, settings, layout=layout) as running:
            seldom_collect()
            remark(
                f"Devices    {running.device_url}/version?device=ID\n"
                f"Internal   {running.internal_url}/internal/v1/rollouts\n"
                f"Manifests  {manifests}\n"
                f"Look at it with otaflux devices --server {running.internal_url}\n"
            )
            waiting = [
                asyncio.create_task(stopped.wait()),
                asyncio.create_task(running.failure()),
            ]
            done, late = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in late:
                task.cancel()
            for task in done:
                task.result()
    except (AlreadyRunning, DatabaseUnusable, DataDirInUse, TlsUnusable) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"cannot start: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            hint=f"Are --listen {settings.listen} and --internal-listen {settings.internal_listen} "
            "free, and the folders readable?",
        ) from None


def _settings(listen: str, internal_listen: str, data: Path) -> "Settings":
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from otaflux_server.settings import (
        IdentityKind,
        InternalAuthentication,
        Settings,
        address,
    )

    for option, text in (("--listen", listen), ("--internal-listen", internal_listen)):
        try:
            address(text)
        except ValueError as error:
            raise UserError(f"{option} {text!r}: {error}", exit_code=WRONG_USAGE) from None
    try:
        settings = Settings(
            listen=listen, internal_listen=internal_listen, data_dir=data / "server"
        )
    except SettingsError as error:
        raise UserError(str(error), exit_code=WRONG_USAGE) from None
    except ValidationError as error:
        problems = [
            f"OTAFLUX_{'__'.join(str(part).upper() for part in found['loc'])}: {found['msg']}"
            for found in error.errors(include_input=False, include_url=False)
        ]
        raise UserError("; ".join(problems), exit_code=WRONG_USAGE) from None
    identity, internal = settings.identity, settings.internal
    if identity.kind is None:
        identity = identity.model_copy(update={"kind": IdentityKind.OPEN})
    if "authentication" not in internal.model_fields_set:  # there is no API server to ask
        internal = internal.model_copy(update={"authentication": InternalAuthentication.NONE})
    return settings.model_copy(update={"identity": identity, "internal": internal})


def _write_example(manifests: Path) -> None:
    from importlib.resources import files

    text = files("otaflux_cli.standalone").joinpath("example.yaml").read_text()
    file = manifests / _EXAMPLE
    try:
        manifests.mkdir(parents=True, exist_ok=True)
        with file.open("x") as target:
            target.write(text)
    except FileExistsError:
        raise UserError(f"{file} exists already", hint="Edit it, or remove it first.") from None
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    typer.echo(f"Wrote {file}")
    option = "" if manifests == DEFAULT_MANIFESTS else f" --manifests {manifests}"
    remark(
        "\nNext:\n\n  otaflux firmware add build/app.bin --version 1.4.0\n"
        f"  otaflux standalone{option}\n\n"
        "and, with your device's name, curl 'http://localhost:8080/version?device=kitchen-1'"
    )
