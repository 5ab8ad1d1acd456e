"""`otaflux device cert ca`, and what all commands with an authority share."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otaflux_cli.enrolment.options import KubeconfigOption
from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import remark

if TYPE_CHECKING:
    from otaflux_cli.enrolment.stores import Contents, Store

app = typer.Typer(help="The authority itself.", no_args_is_help=True)

_SECRET = "secret:"
_FULL = (
    "The index of issued certificates has outgrown a Secret: make a new authority, keep it in a "
    "folder, or let cert-manager issue (docs/enrolment.md)."
)

CaOption = Annotated[
    str,
    typer.Option(
        "--ca",
        metavar="DIR|secret:[NS/]NAME",
        help="Where the authority is: ca.crt and ca.key, or tls.crt and tls.key.",
    ),
]
DaysOption = Annotated[
    int, typer.Option(min=1, max=36500, metavar="N", help="For so many days it is valid.")
]
ListDaysOption = Annotated[
    int,
    typer.Option(
        "--crl-days",
        min=1,
        max=3650,
        metavar="N",
        help="For so many days the revocation list is valid; then servers refuse every device.",
    ),
]


@app.command("create")
def create(
    ca: CaOption,
    name: Annotated[str, typer.Option(help="Its name, the issuer of certificates.")] = (
        "OtaFlux devices"
    ),
    days: DaysOption = 3650,
    crl_days: ListDaysOption = 365,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Create an authority: a P-256 key, its certificate, and an empty revocation list.

    [bold]Examples[/bold]

        otaflux device cert ca create --ca ./device-ca

        otaflux device cert ca create --ca secret:otaflux-system/otaflux-device-ca

    The Secret also serves a cert-manager Issuer. The server gets ca.crt and crl.pem alone, never
    the key.
    """
    from otaflux_cli.enrolment.authorities import (
        CA_FILES,
        TLS_FILES,
        certificate_pem,
        key_pem,
        new_authority,
    )
    from otaflux_cli.enrolment.revocations import LIST_FILE, new_list

    store = authority_store(ca, kubeconfig)
    now = this_second()
    try:
        authority = new_authority(name, days, now)
    except ValueError as error:
        raise UserError(f"--name {name!r}: {error}", exit_code=WRONG_USAGE) from None
    certificate, key = certificate_pem(authority.certificate), key_pem(authority.key)

    def edit(contents: "Contents") -> "Contents":
        there = next((one for one in (*CA_FILES, *TLS_FILES) if one in contents), None)
        if there is not None:
            raise UserError(
                f"there is a {there} in {store} already; nothing was changed",
                hint="Devices trust what it signed: choose another place for a new authority.",
            )
        files = {"ca.key": key, "ca.crt": certificate}
        if ca.startswith(_SECRET):
            files = {"tls.key": key, "tls.crt": certificate, "ca.crt": certificate}
        return files | {LIST_FILE: new_list(authority, None, (), (), crl_days, now)}

    store.change(edit)
    remark(f"Made the authority {name!r} in {store}, valid for {days} days. Keep its key safe.")
    say_end(now, crl_days)


def authority_store(ca: str, kubeconfig: Path | None) -> "Store":
    """Where `--ca` says that the authority is. Raises UserError."""
    from otaflux_cli.enrolment.authorities import CA_FILES, TLS_FILES
    from otaflux_cli.enrolment.revocations import INDEX_FILE, LIST_FILE
    from otaflux_cli.enrolment.stores import Folder, secret_name

    if not ca.startswith(_SECRET):
        names = (*CA_FILES, *TLS_FILES, INDEX_FILE, LIST_FILE)
        return Folder(Path(ca), names, public=("ca.crt", LIST_FILE))
    from otaflux_cli.enrolment.kube_secrets import Secret

    namespace, name = secret_name(ca.removeprefix(_SECRET))
    return Secret(namespace, name, kubeconfig=kubeconfig, kind="kubernetes.io/tls", when_full=_FULL)


def this_second() -> datetime:
    """The time, as certificates can tell it."""
    return datetime.now(UTC).replace(microsecond=0)


def say_end(now: datetime, days: int) -> None:
    """Until when the revocation list that was written now is good."""
    remark(
        f"The revocation list is valid until {now + timedelta(days=days):%Y-%m-%d}: write it anew "
        "before then (otaflux device cert crl), or servers refuse every device."
    )
