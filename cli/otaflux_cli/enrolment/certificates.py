"""`otaflux device cert`: certificates of devices, revocation."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otaflux_cli.enrolment import issuers
from otaflux_cli.enrolment.issuers import (
    CaOption,
    DaysOption,
    ListDaysOption,
    authority_store,
    say_end,
    this_second,
)
from otaflux_cli.enrolment.options import (
    KubeconfigOption,
    NamespaceOption,
    check_namespace,
    device_name,
    read_text,
)
from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, print_json, print_rows, remark

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from otaflux_cli.enrolment.authorities import Authority, PublicKey
    from otaflux_cli.enrolment.stores import Contents, Store

app = typer.Typer(
    help="Certificates of devices, by an authority in a folder or a Secret.",
    no_args_is_help=True,
)
app.add_typer(issuers.app, name="ca")


@app.command("create")
def create(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    namespace: NamespaceOption,
    ca: CaOption,
    days: DaysOption = 365,
    csr: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The device's request (PKCS#10, - is stdin): its key stays on the device. Only "
            "the key is taken from it.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where DEVICE.crt and DEVICE.key are written.")
    ] = Path(),
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Issue a device's certificate, which names it as otaflux://NAMESPACE/DEVICE.

    [bold]Examples[/bold]

        otaflux device cert create kitchen-1 -n homes --ca ./device-ca

        otaflux device cert create kitchen-1 -n homes --ca ./device-ca --csr kitchen-1.csr

        otaflux device cert create kitchen-1 -n homes --ca secret:otaflux-device-ca --days 90
    """
    from otaflux_cli.enrolment.authorities import (
        certificate_pem,
        identity,
        issue,
        key_pem,
        load_authority,
        new_key,
        requested_key,
    )
    from otaflux_cli.enrolment.revocations import (
        INDEX_FILE,
        Issued,
        read_index,
        serial_text,
        time_text,
        write_index,
    )

    check_namespace(namespace)
    device_name(device)
    store, now = authority_store(ca, kubeconfig), this_second()
    files, own = {"certificate": out / f"{device}.crt"}, {}
    if csr is None:
        key = new_key()
        public: PublicKey = key.public_key()
        files["key"], own["key"] = out / f"{device}.key", key_pem(key)
    else:
        public = requested_key(read_text(csr).encode())
    for file in files.values():
        if file.exists():
            raise UserError(f"{file} is there already", hint="Move it, or give --out DIR.")
    authority = load_authority(store.read(), ca, now)
    certificate = issue(authority, namespace, device, public, days, now)
    entry = Issued(
        serial_text(certificate.serial_number),
        namespace,
        device,
        issued=now,
        until=certificate.not_valid_after_utc,
    )

    def edit(contents: "Contents") -> "Contents":
        known = read_index(contents.get(INDEX_FILE, b""), str(store))
        return {INDEX_FILE: write_index([*known, entry], now)}

    store.change(edit)  # first: no certificate is out that cannot be revoked by its serial
    contents = {"certificate": certificate_pem(certificate) + authority.chain} | own
    _write({files[what]: content for what, content in contents.items()})
    if output is Output.JSON:
        print_json(
            {
                **{what: str(file) for what, file in files.items()},
                **{"uri": identity(namespace, device), "serial": entry.serial},
                "until": time_text(entry.until),
            }
        )
        return
    typer.echo("\n".join(map(str, files.values())))
    remark(
        f"{identity(namespace, device)}, serial {entry.serial}, until {entry.until:%Y-%m-%d}, is "
        f"noted in {store}."
    )


@app.command("list")
def list_(
    ca: CaOption,
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="Only of this namespace.")
    ] = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what the authority issued here: device, serial, until when, revoked or not.

    [bold]Examples[/bold]

        otaflux device cert list --ca ./device-ca

        otaflux device cert list --ca secret:otaflux-device-ca -n homes -o json
    """
    from otaflux_cli.enrolment.revocations import (
        INDEX_FILE,
        LIST_FILE,
        read_index,
        revoked,
        time_text,
    )

    store, now = authority_store(ca, kubeconfig), this_second()
    contents = store.read()
    authority = _authority(contents, ca, now)
    known = _known_list(contents, authority, store)
    gone = revoked(known)
    entries = [
        entry
        for entry in read_index(contents.get(INDEX_FILE, b""), str(store))
        if namespace in (None, entry.namespace)
    ]
    states = [
        "revoked" if one.serial in gone else "valid" if one.until > now else "expired"
        for one in entries
    ]
    rows = [
        (one.serial, one.namespace, one.device, f"{one.until:%Y-%m-%d}", state)
        for one, state in zip(entries, states, strict=True)
    ]
    data = [
        {
            **{"serial": one.serial, "namespace": one.namespace, "device": one.device},
            **{"until": time_text(one.until), "state": state},
        }
        for one, state in zip(entries, states, strict=True)
    ]
    if entries or output is Output.JSON:
        print_rows(output, ("Serial", "Namespace", "Device", "Until", "State"), rows, data)
    else:
        remark(f"No certificate is noted in {store}.")
    end = None if known is None else known.next_update_utc
    if end is not None and end - now < timedelta(days=30):
        remark(
            f"{LIST_FILE} is valid until {end:%Y-%m-%d} only; then servers refuse every device: "
            f"otaflux device cert crl --ca {ca}"
        )


@app.command("revoke")
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="SERIAL|FILE", help="Its serial number, or its file.")
    ],
    ca: CaOption,
    crl_days: ListDaysOption = 365,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Revoke a certificate: crl.pem beside the authority is written anew.

    [bold]Examples[/bold]

        otaflux device cert revoke kitchen-1.crt --ca ./device-ca

        otaflux device cert revoke 5D20B1C0 --ca secret:otaflux-device-ca

    A file may be of a certificate that cert-manager issued with the same authority. Servers that
    read crl.pem refuse it within seconds; a Secret that is mounted takes up to two minutes.
    """
    from otaflux_cli.enrolment.revocations import INDEX_FILE, read_index, revoked

    store, now = authority_store(ca, kubeconfig), this_second()

    def serials(contents: "Contents", authority: "Authority") -> list[str]:
        index = read_index(contents.get(INDEX_FILE, b""), str(store))
        serial = _serial(which, authority, {entry.serial for entry in index}, store)
        if serial in revoked(_known_list(contents, authority, store)):
            raise UserError(f"{serial} is revoked already")
        return [serial]

    _renew(store, ca, crl_days, now, serials)
    remark(f"Revoked {which} in {store}.")
    say_end(now, crl_days)


@app.command("crl")
def renew(
    ca: CaOption,
    crl_days: ListDaysOption = 365,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Write the revocation list anew, so that it stays current.

    [bold]Examples[/bold]

        otaflux device cert crl --ca ./device-ca

        otaflux device cert crl --ca secret:otaflux-device-ca --crl-days 90

    Also the first one of an authority that was made elsewhere.
    """
    store, now = authority_store(ca, kubeconfig), this_second()
    _renew(store, ca, crl_days, now, lambda _contents, _authority: [])
    remark(f"Wrote the revocation list in {store}.")
    say_end(now, crl_days)


def _renew(
    store: "Store",
    ca: str,
    days: int,
    now: datetime,
    added: "Callable[[Contents, Authority], list[str]]",
) -> None:
    """Writes the list with the serials that `added` names."""
    from otaflux_cli.enrolment.revocations import INDEX_FILE, LIST_FILE, new_list, read_index

    def edit(contents: "Contents") -> "Contents":
        authority = _authority(contents, ca, now)
        index = read_index(contents.get(INDEX_FILE, b""), str(store))
        known = _known_list(contents, authority, store)
        return {LIST_FILE: new_list(authority, known, added(contents, authority), index, days, now)}

    store.change(edit)


def _authority(contents: "Contents", ca: str, now: datetime) -> "Authority":
    from otaflux_cli.enrolment.authorities import load_authority

    return load_authority(contents, ca, now)


def _known_list(
    contents: "Contents", authority: "Authority", store: "Store"
) -> "x509.CertificateRevocationList | None":
    from otaflux_cli.enrolment.revocations import LIST_FILE, read_list

    content = contents.get(LIST_FILE)
    return None if content is None else read_list(content, authority, str(store))


def _serial(which: str, authority: "Authority", issued: set[str], store: "Store") -> str:
    """The serial of a certificate that this authority issued."""
    from cryptography.exceptions import InvalidSignature

    from otaflux_cli.enrolment.authorities import read_certificate
    from otaflux_cli.enrolment.revocations import serial_of, serial_text

    if Path(which).is_file():
        certificate = read_certificate(read_text(Path(which)).encode(), which)
        try:
            certificate.verify_directly_issued_by(authority.certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise UserError(f"{which} was not issued by the authority in {store}") from None
        return serial_text(certificate.serial_number)
    serial = serial_of(which)
    if serial is None:
        raise UserError(f"{which!r} is neither a file nor a serial number", exit_code=WRONG_USAGE)
    if serial not in issued:
        raise UserError(
            f"no certificate with the serial {serial} is noted in {store}; nothing was revoked",
            hint="`otaflux device cert list` shows those that are; for one that was issued "
            "elsewhere with the same authority, give its file.",
        )
    return serial


def _write(files: dict[Path, bytes]) -> None:
    from otaflux_cli.enrolment.stores import write_file

    for file, content in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, content, public=file.suffix == ".crt")
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from None
