"""What an authority issued and took back: its index and its revocation list (RFC 5280, 5).

The index holds one JSON object a line. The list is the record of what was revoked; it is written
anew each time, with the next number.
"""

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from otaflux_cli.enrolment.authorities import Authority, key_identifier
from otaflux_cli.errors import UserError

INDEX_FILE = "issued.jsonl"
LIST_FILE = "crl.pem"

_KEPT = datetime.timedelta(days=30)
"""So long after its end a certificate stays in index and list (RFC 5280, 3.3: one list more)."""

_TIMES = ("issued", "until")


@dataclass(frozen=True)
class Issued:
    """A line of the index. `serial` is hexadecimal, as OpenSSL prints it."""

    serial: str
    namespace: str
    device: str
    issued: datetime.datetime
    until: datetime.datetime

    def dumps(self) -> str:
        """One line without its end."""
        texts = {**vars(self), "issued": time_text(self.issued), "until": time_text(self.until)}
        return json.dumps(texts, sort_keys=True)


def time_text(time: datetime.datetime) -> str:
    """Of a time in UTC: RFC 3339, with `Z`."""
    return time.isoformat().replace("+00:00", "Z")


def serial_text(serial: int) -> str:
    """As OpenSSL prints it."""
    text = f"{serial:X}"
    return text.zfill(len(text) + len(text) % 2)


def serial_of(text: str) -> str | None:
    """A serial number as people write it (colons, any case), in our form; None: it is none."""
    try:
        return serial_text(int(text.replace(":", ""), 16))
    except ValueError:
        return None


def read_index(content: bytes, place: str) -> list[Issued]:
    """All entries. Raises UserError: what is not understood is not written over."""
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            texts = json.loads(line)
            times = {key: datetime.datetime.fromisoformat(texts[key]) for key in _TIMES}
            found.append(Issued(**{**texts, **times}))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"line {number} of {INDEX_FILE} in {place} is damaged") from None
    return found


def write_index(entries: Iterable[Issued], now: datetime.datetime) -> bytes:
    """The index, without what ended long ago."""
    kept = (entry for entry in entries if entry.until + _KEPT > now)
    return "".join(f"{entry.dumps()}\n" for entry in kept).encode()


def read_list(content: bytes, authority: Authority, place: str) -> x509.CertificateRevocationList:
    """The list there is. Raises UserError."""
    try:
        found = x509.load_pem_x509_crl(content)
    except ValueError:
        raise UserError(f"{LIST_FILE} in {place} is no revocation list in PEM") from None
    if not found.is_signature_valid(authority.key.public_key()):
        raise UserError(f"{LIST_FILE} in {place} is not signed by the authority there")
    return found


def revoked(known: x509.CertificateRevocationList | None) -> dict[str, datetime.datetime]:
    """Serials, and since when."""
    return {serial_text(one.serial_number): one.revocation_date_utc for one in known or ()}


def new_list(
    authority: Authority,
    known: x509.CertificateRevocationList | None,
    added: Iterable[str],
    index: Iterable[Issued],
    days: int,
    now: datetime.datetime,
) -> bytes:
    """The next list, in PEM: what was revoked, and the serials `added`.

    It is valid for so many days. What the index knows to have ended long ago is left out.
    """
    ended = {entry.serial for entry in index if entry.until + _KEPT <= now}
    entries = dict.fromkeys(added, now) | revoked(known)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(now + datetime.timedelta(days=days))
        .add_extension(x509.CRLNumber(_number(known) + 1), critical=False)
        .add_extension(key_identifier(authority.certificate), critical=False)
    )
    for serial, since in entries.items():
        if serial not in ended:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(serial, 16))
                .revocation_date(since)
                .build()
            )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _number(known: x509.CertificateRevocationList | None) -> int:
    if known is None:
        return 0
    try:
        return known.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
