"""`otaflux explain`, `otaflux preview` and `otaflux devices`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, print_json, print_rows, remark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otaflux_cli.inspection.servers import InternalServer

DEFAULT_SERVER = "http://127.0.0.1:8081"

ServerOption = Annotated[
    str,
    typer.Option(
        envvar="OTAFLUX_SERVER_URL",
        metavar="URL",
        help="The internal API of the update server; standalone's own unless told otherwise.",
    ),
]

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="OTAFLUX_SERVER_TOKEN_FILE",
        metavar="FILE",
        help="File with the token that the internal API wants; standalone's own wants none.",
    ),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        envvar="OTAFLUX_SERVER_CA",
        metavar="FILE",
        help="Authorities (PEM) that the certificate of an https:// server is checked against; "
        "else the system's.",
    ),
]


def _states() -> list[str]:
    from otaflux_cli.inspection.listings import STATES

    return [str(state) for state in STATES]


def _reasons() -> list[str]:
    from otaflux_cli.inspection.listings import REASONS

    return [str(reason) for reason in REASONS]


NamespaceOption = Annotated[str, typer.Option("-n", "--namespace", help="The namespace.")]


def explain(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    namespace: NamespaceOption = "default",
    version: Annotated[str | None, typer.Option(help="Explain as if it ran this version.")] = None,
    model: Annotated[str | None, typer.Option(help="Explain as if it were this model.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    server_token_file: TokenFileOption = None,
    server_ca: AuthorityOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Explain what a device gets now: the decision, and every rule that was looked at.

    Also for a device that was never heard of: what it would get.

    [bold]Examples[/bold]

        otaflux explain kitchen-1

        otaflux explain kitchen-1 -n tenant-a -o json

        otaflux explain kitchen-1 --version 1.3.2 --model thermostat-v2
    """
    from otaflux_cli.inspection import explanations
    from otaflux_server.explaining import Explanation

    _check_device(device)
    with _server(server, server_token_file, server_ca) as asked:
        told, data = asked.get(
            *(Explanation, "devices", namespace, device, "explain"),
            version=version,
            model=model,
        )
    if output is Output.JSON:
        print_json(data)
    else:
        explanations.show(told)


def preview(
    rollout: Annotated[str, typer.Argument(help="The FirmwareRollout's name.")],
    namespace: NamespaceOption = "default",
    digest: Annotated[
        str | None,
        typer.Option(
            help="The manifest digest of a release to draw the shares for, sha256:…; else that of "
            "the candidate, or of what is released."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, max=1000, help="So many devices of each ring are named.")
    ] = 5,
    server: ServerOption = DEFAULT_SERVER,
    server_token_file: TokenFileOption = None,
    server_ca: AuthorityOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which devices each ring of a rollout would take, before anything is released.

    [bold]Examples[/bold]

        otaflux preview thermostat

        otaflux preview thermostat -n tenant-a --limit 100

        otaflux preview thermostat --digest sha256:0a1b… -o json

    Only devices that the server has heard of. A percentage draws other devices for every release.
    """
    from otaflux_cli.inspection import previews
    from otaflux_server.previewing import Preview

    with _server(server, server_token_file, server_ca) as asked:
        told, data = asked.get(
            *(Preview, "rollouts", namespace, rollout, "preview"), digest=digest, limit=limit
        )
    if output is Output.JSON:
        print_json(data)
    else:
        previews.show(told)


def devices(
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="Only of this namespace.")
    ] = None,
    rollout: Annotated[str | None, typer.Option(help="Only those that this rollout has.")] = None,
    ring: Annotated[str | None, typer.Option(help="Only those that count in this ring.")] = None,
    group: Annotated[str | None, typer.Option(help="Only those of this DeviceGroup.")] = None,
    state: Annotated[
        str | None,
        typer.Option(
            help="How far they are with the release, such as Updated.", autocompletion=_states
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            help="Why they got what they got last, such as RingClosed.", autocompletion=_reasons
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Only those that run this version.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    seen_within: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Only those heard of so lately, such as 10m or 1h30m."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Show at most so many.")] = 1000,
    server: ServerOption = DEFAULT_SERVER,
    server_token_file: TokenFileOption = None,
    server_ca: AuthorityOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List devices: what they run, which rollout and ring they are in, how far they are.

    [bold]Examples[/bold]

        otaflux devices

        otaflux devices --rollout thermostat --ring canary --state Failed

        otaflux devices -n tenant-a --version 1.3.2 --seen-within 24h -o json

    Several filters: only devices that fit all of them.
    """
    from datetime import UTC, datetime

    from otaflux_cli.inspection import listings

    filters: dict[str, str | int | None] = {
        "namespace": namespace,
        "rollout": rollout,
        "ring": ring,
        "group": group,
        "state": _one_of("--state", state, listings.STATES),
        "reason": _one_of("--reason", reason, listings.REASONS),
        "version": version,
        "model": model,
        "seenWithin": _seconds("--seen-within", seen_within),
    }
    with _server(server, server_token_file, server_ca) as asked:
        found = listings.read(asked, limit, **filters)
    if found.devices or output is Output.JSON:
        columns, rows = listings.table_of(found.devices, datetime.now(UTC))
        print_rows(output, columns, rows, found.data)
    elif any(value is not None for value in filters.values()):
        remark("No device fits.")
    else:
        remark("No device was heard of yet.")
    if found.more:
        remark(f"There are more than these {limit}: raise --limit, or filter.")


def _server(url: str, token_file: Path | None, ca: Path | None) -> "InternalServer":
    from otaflux_cli.inspection.servers import InternalServer

    return InternalServer(url, token_file=token_file, ca=ca)


def _check_device(device: str) -> None:
    from otaflux_policy.devices import InvalidDeviceId, device_id

    try:
        device_id(device)
    except InvalidDeviceId as error:
        raise UserError(f"{device!r}: {error}", exit_code=WRONG_USAGE) from None


def _one_of(option: str, text: str | None, known: "Sequence[str]") -> str | None:
    if text is None:
        return None
    for value in known:
        if value.lower() == text.lower():
            return str(value)
    raise UserError(
        f"{option} {text!r} is unknown: write one of {', '.join(known)}", exit_code=WRONG_USAGE
    )


def _seconds(option: str, text: str | None) -> int | None:
    from otaflux_operator.resources.durations import Duration

    if text is None:
        return None
    try:
        seconds = Duration(text).seconds
    except ValueError as error:
        raise UserError(f"{option} {text!r}: {error}", exit_code=WRONG_USAGE) from None
    if not seconds:
        raise UserError(f"{option} {text!r}: write at least 1s", exit_code=WRONG_USAGE)
    return seconds
