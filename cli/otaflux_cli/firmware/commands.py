"""`otaflux firmware`: make a sample image, put a binary into an OCI image layout."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.firmware.images import LARGEST, SMALLEST, Chip
from otaflux_cli.outputs import Output, OutputOption, print_json, remark
from otaflux_cli.places import DEFAULT_LAYOUT, DEFAULT_REPOSITORY

if TYPE_CHECKING:
    from otaflux_cli.firmware.images import Description

app = typer.Typer(
    help="Make sample firmware, or put yours where OtaFlux finds it.", no_args_is_help=True
)


@app.command("sample")
def sample(
    version: Annotated[str, typer.Option("--version", help="The version in the image.")],
    file: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")],
    project: Annotated[str, typer.Option(help="The project name in the image.")] = "otaflux-sample",
    chip: Annotated[
        Chip,
        typer.Option(metavar="CHIP", help=f"The chip it is for: {', '.join(Chip)}."),
    ] = Chip.ESP32,
    size: Annotated[
        str, typer.Option(help="Bytes, or with KiB or MiB; rounded up to a multiple of 16.")
    ] = "64KiB",
) -> None:
    """Make a valid ESP32 application image, for a try-out without a device.

    [bold]Examples[/bold]

        otaflux firmware sample --version 1.4.0 -o thermostat-1.4.0.bin

        otaflux firmware sample --version 1.4.0 --chip esp32c3 --size 1MiB -o app.bin

    Its code is noise: serve it to simulated devices, not to real ones.
    """
    from otaflux_cli.firmware.images import InvalidImage, make_image

    try:
        image = make_image(version, project=project, chip=chip, size=_bytes(size))
    except InvalidImage as error:
        raise UserError(str(error), exit_code=WRONG_USAGE) from None
    try:
        file.write_bytes(image)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
    typer.echo(f"{file}: {version} for {chip}, {len(image)} bytes")


def _bytes(text: str) -> int:
    for unit, factor in (("KiB", 1024), ("MiB", 1024 * 1024), ("", 1)):
        if text.endswith(unit):
            number = text.removesuffix(unit).strip()
            if number.isdecimal() and len(number) < 12:
                return -(-int(number) * factor // 16) * 16
    raise UserError(
        f"--size {text!r} is no size: write a number of bytes "
        f"({SMALLEST} to {LARGEST}), or one such as 64KiB or 1MiB",
        exit_code=WRONG_USAGE,
    )


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="The binary, such as build/app.bin.")],
    version: Annotated[
        str | None,
        typer.Option("--version", help="Its version; by default the one in an ESP32 image."),
    ] = None,
    repository: Annotated[
        str, typer.Option(help="The repository that it is put into.")
    ] = DEFAULT_REPOSITORY,
    layout: Annotated[
        Path, typer.Option(help="The OCI image layout; created where there is none.")
    ] = DEFAULT_LAYOUT,
    tag: Annotated[str | None, typer.Option(help="Its tag; by default the version.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a binary into an OCI image layout on disk, from which `otaflux standalone` serves it.

    [bold]Examples[/bold]

        otaflux firmware add build/app.bin --version 1.4.0

        otaflux firmware add app.bin --version 1.4.0 --tag stable

        otaflux firmware add app.bin --repository registry.example.com/thermostat --layout /srv/fw

    A tag moves when it is given again: the next release is one command.
    """
    from otaflux_oci import ImageLayout, OciError, Repository

    known = _describe(file)
    version = version or (known.version if known else None)
    if not version:
        raise UserError(
            f"{file} does not say its version",
            hint="Give it: --version 1.4.0",
            exit_code=WRONG_USAGE,
        )
    if known and known.version != version:
        remark(
            f"Note: the image says that it is version {known.version}, not {version}. A device "
            "that reports what it runs would never count as updated."
        )
    try:
        source = Repository.parse(repository)
        manifest = ImageLayout(layout).add(source, file, version=version, tag=tag or "")
    except OciError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or layout}: {error.strerror}") from None
    tag = tag or version.replace("+", "_")
    layer = manifest.layers[0]
    if output is Output.JSON:
        print_json(
            {
                "repository": str(source),
                "tag": tag,
                "version": version,
                "digest": manifest.digest,
                "firmware": {"digest": layer.digest, "size": layer.size},
                "layout": str(layout),
            }
        )
        return
    typer.echo(f"Added {source}:{tag} to {layout}")
    typer.echo(f"  digest    {manifest.digest}")
    typer.echo(f"  firmware  {layer.digest}, {layer.size} bytes")
    remark(
        "\nNext, in the manifest of the FirmwareRollout:\n\n"
        f"  spec:\n    artifact:\n      repository: {source}\n      tag: {json.dumps(tag)}\n"
    )


def _describe(file: Path) -> "Description | None":
    """What the image says of itself; None for a binary of another kind."""
    from otaflux_cli.firmware.images import LARGEST_FILE, MAGIC, InvalidImage, describe

    try:
        if file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{file} is larger than {LARGEST_FILE} bytes: no firmware is")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    if not content:
        raise UserError(f"{file} is empty")
    try:
        return describe(content)
    except InvalidImage as error:
        if content[0] == MAGIC:
            remark(f"Note: {file} begins like an ESP32 image, but {error}.")
        return None
