"""`otaflux device token`: create, list, revoke."""

import csv
import io
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otaflux_cli.enrolment.options import (
    KubeconfigOption,
    NamespaceOption,
    check_namespace,
    device_name,
    lifetime,
    read_text,
)
from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, print_json, print_rows, remark

if TYPE_CHECKING:
    from otaflux_cli.enrolment.stores import Contents, Store
    from otaflux_policy.tokens import DeviceToken

app = typer.Typer(
    help="Tokens: 256 random bits for a device, a group of devices, or a gateway.",
    no_args_is_help=True,
)

DEFAULT_SECRET = "otaflux-device-tokens"
_MOST_DEVICES = 100_000
_FULL = (
    "Put further tokens into another Secret (--secret NAME) and give the server both, as sources "
    "of one projected volume; or revoke tokens that are not used."
)

FileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="The file with the hashes, which the server reads (OTAFLUX_IDENTITY__TOKENS).",
    ),
]
SecretOption = Annotated[
    str | None,
    typer.Option(
        metavar="[NS/]NAME",
        help="The Secret with the hashes, which the server mounts "
        f"[default: otaflux-system/{DEFAULT_SECRET}].",
    ),
]


@app.command("create")
def create(
    name: Annotated[
        str, typer.Argument(help="What people call the token; with --devices-file: the batch.")
    ],
    namespace: NamespaceOption,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A device it stands for, or a glob; may be repeated."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="It stands for the devices of this DeviceGroup.")
    ] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="It stands for all devices of the namespace.")
    ] = False,
    devices_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A token for each device id in this file (one a line, - is stdin); prints CSV.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Refused after this time, such as 365d; else never."),
    ] = None,
    file: FileOption = None,
    secret: SecretOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a token and print it, once: only its hash is kept.

    [bold]Examples[/bold]

        otaflux device token create kitchen-1 -n homes --device kitchen-1

        otaflux device token create lab -n homes --group lab --expires 365d

        otaflux device token create gateway-3 -n homes --gateway --file /etc/otaflux/tokens

        otaflux device token create batch-7 -n homes --devices-file ids.txt > tokens.csv

    The device sends it as [bold]Authorization: Bearer TOKEN[/bold]. The server knows it within
    seconds from a file; a Secret that is mounted takes up to two minutes.
    """
    from otaflux_cli.enrolment.lines import appended, names_in

    check_namespace(namespace)
    if [bool(device), group is not None, gateway, devices_file is not None].count(True) != 1:
        raise UserError(
            "whom the token stands for: give one of --device, --group, --gateway, --devices-file",
            exit_code=WRONG_USAGE,
        )
    until = (
        None
        if expires is None
        else datetime.now(UTC).replace(microsecond=0) + lifetime("--expires", expires)
    )
    holders: list[tuple[str, dict[str, Any]]]
    if devices_file is not None:
        holders = [(f"{name}/{one}", {"devices": (one,)}) for one in _ids(devices_file)]
    elif group is not None:
        holders = [(name, {"group": group})]
    else:
        patterns = ("*",) if gateway else tuple(map(_id_or_glob, device or ()))
        holders = [(name, {"devices": patterns})]
    made = [_made(named, namespace, until, holder) for named, holder in holders]
    store, key = _store(file, secret, kubeconfig)

    def edit(contents: "Contents") -> "Contents":
        content = contents.get(key, b"")
        taken = names_in(content)
        for entry, _ in made:
            if entry.name in taken:
                raise UserError(
                    f"there is a token {entry.name!r} in {store} already",
                    hint=f"Choose another name, or `otaflux device token revoke {entry.name}`.",
                )
        return {key: appended(content, (entry for entry, _ in made))}

    store.change(edit)
    _tell(made, batch=devices_file is not None, output=output)
    remark(f"Its hash is in {store}." if len(made) == 1 else f"{len(made)} hashes are in {store}.")


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="Only of this namespace.")
    ] = None,
    file: FileOption = None,
    secret: SecretOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List tokens: their names, whom they stand for, until when.

    [bold]Examples[/bold]

        otaflux device token list

        otaflux device token list -n homes --file /etc/otaflux/tokens -o json
    """
    from otaflux_cli.enrolment.lines import lines

    store, key = _store(file, secret, kubeconfig)
    found = lines(store.read().get(key, b""))
    tokens = [
        line.token
        for line in found
        if line.token is not None and namespace in (None, line.token.namespace)
    ]
    data = [token.model_dump(mode="json", exclude={"sha256"}) for token in tokens]
    if tokens or output is Output.JSON:
        rows = [(t.name, t.namespace, _whom(t), _until(t)) for t in tokens]
        print_rows(output, ("Name", "Namespace", "For", "Expires"), rows, data)
    else:
        remark(f"There is no token in {store}.")
    for line in found:
        if line.token is None:
            remark(f"Line {line.number} of {store} counts for nothing: {line.problem}.")


@app.command("revoke")
def revoke(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The tokens' names.")],
    file: FileOption = None,
    secret: SecretOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Take tokens back: the server refuses them once it has read the change.

    [bold]Examples[/bold]

        otaflux device token revoke kitchen-1

        otaflux device token revoke batch-7/hall-1 batch-7/hall-2 --file /etc/otaflux/tokens
    """
    from otaflux_cli.enrolment.lines import names_in, without

    store, key = _store(file, secret, kubeconfig)

    def edit(contents: "Contents") -> "Contents":
        content = contents.get(key, b"")
        known = names_in(content)
        for name in names:
            if name not in known:
                raise UserError(
                    f"there is no token {name!r} in {store}; nothing was revoked",
                    hint="`otaflux device token list` shows them.",
                )
        return {key: without(content, set(names))}

    store.change(edit)
    remark(f"Revoked {', '.join(names)} in {store}.")


def _store(file: Path | None, secret: str | None, kubeconfig: Path | None) -> "tuple[Store, str]":
    """The store, and the name of the content with the tokens in it."""
    from otaflux_cli.enrolment.stores import Folder, secret_name

    if file is not None:
        if secret is not None:
            raise UserError("give --file or --secret, not both", exit_code=WRONG_USAGE)
        if file.is_dir():
            raise UserError(
                f"{file} is a folder: name a file in it, such as {file / 'tokens'}",
                exit_code=WRONG_USAGE,
            )
        return Folder(file.parent, (file.name,)), file.name
    from otaflux_cli.enrolment.kube_secrets import Secret

    namespace, name = secret_name(secret or DEFAULT_SECRET)
    # The key bears the Secret's name, so that several fit into one projected volume.
    return Secret(namespace, name, kubeconfig=kubeconfig, when_full=_FULL), f"{name}.jsonl"


def _made(
    name: str, namespace: str, until: datetime | None, holder: dict[str, Any]
) -> "tuple[DeviceToken, str]":
    from pydantic import ValidationError

    from otaflux_policy.tokens import DeviceToken, hash_of, new_token

    token = new_token()
    try:
        entry = DeviceToken(
            name=name, sha256=hash_of(token), namespace=namespace, expires_at=until, **holder
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {first['msg']}", exit_code=WRONG_USAGE) from None
    return entry, token


def _tell(made: "list[tuple[DeviceToken, str]]", *, batch: bool, output: Output) -> None:
    if output is Output.JSON:
        told = [
            entry.model_dump(mode="json", exclude={"sha256"}) | {"token": token}
            for entry, token in made
        ]
        print_json(told if batch else told[0])
    elif batch:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("id", "token"))
        rows.writerows((entry.devices[0], token) for entry, token in made)
        typer.echo(text.getvalue(), nl=False)
    else:
        typer.echo(made[0][1])
    sys.stdout.flush()


def _ids(file: Path) -> list[str]:
    found = [device_name(line.strip()) for line in read_text(file).splitlines() if line.strip()]
    if not found:
        raise UserError(f"{file} names no device", hint="Write one device id a line.")
    if len(found) > _MOST_DEVICES:
        raise UserError(f"{file} names more than {_MOST_DEVICES} devices: split it")
    twice = [one for one, times in Counter(found).items() if times > 1]
    if twice:
        raise UserError(f"{file} names {twice[0]!r} twice")
    return found


def _id_or_glob(text: str) -> str:
    from otaflux_policy.selectors import is_glob

    if is_glob(text):
        device_name(text.replace("*", "x").replace("?", "x"))
        return text
    return device_name(text)


def _whom(token: "DeviceToken") -> str:
    if token.group is not None:
        return f"group {token.group}"
    return "all devices (gateway)" if token.devices == ("*",) else ", ".join(token.devices)


def _until(token: "DeviceToken") -> str:
    if token.expires_at is None:
        return "never"
    text = token.expires_at.strftime("%Y-%m-%d %H:%M UTC")
    return text if token.expires_at > datetime.now(UTC) else f"{text} (expired)"
