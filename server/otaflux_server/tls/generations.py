"""All that the files of a port said at one time, read and checked as a whole."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from otaflux_server.settings import TlsSettings
from otaflux_server.tls.authorities import ClientAuthorities
from otaflux_server.tls.contexts import ServerContext
from otaflux_server.tls.revocations import RevocationList

FILES: Final = ("certificate", "key", "client_ca", "crl")

_MOST_BYTES = 64 * 1024 * 1024
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----")


class TlsUnusable(Exception):
    """The files of a port cannot be used as they are; the text says which, and why."""


@dataclass(frozen=True, eq=False)
class Generation:
    """`expiries`: when the first of what a file holds ends, by the name of its setting.

    `authorities` None: no client certificate is wanted. `certificate`: the server's, in PEM.
    """

    context: ServerContext
    authorities: ClientAuthorities | None
    certificate: str
    expiries: Mapping[str, datetime]


def paths_of(settings: TlsSettings) -> dict[str, Path]:
    """The files that are set, by the name of their setting."""
    given = {name: getattr(settings, name) for name in FILES}
    return {name: path for name, path in given.items() if path is not None}


def load(settings: TlsSettings) -> Generation:
    """What the files say now; blocks.

    Raises:
        TlsUnusable: one cannot be read, is not whole, or does not fit the others.
    """
    before = _contents(settings)
    certificates = _certificates("certificate", settings, before)
    expiries = {"certificate": min(item.not_valid_after_utc for item in certificates)}
    _check_key(settings, before["key"])
    authorities = None
    if "client_ca" in before:
        trusted = _certificates("client_ca", settings, before)
        expiries["client_ca"] = min(item.not_valid_after_utc for item in trusted)
        lists = None
        if "crl" in before:
            lists = _lists(settings, before["crl"])
            expiries["crl"] = min(item.until for item in lists)
        authorities = ClientAuthorities(trusted, lists)
    try:
        context = ServerContext(settings)
    except OSError as error:
        raise TlsUnusable(_why(settings, error)) from None
    # OpenSSL reads the files itself.
    if _contents(settings) != before:
        raise TlsUnusable("the files change while they are read")
    return Generation(
        context, authorities, certificates[0].public_bytes(Encoding.PEM).decode(), expiries
    )


def _contents(settings: TlsSettings) -> dict[str, bytes]:
    found = {}
    for name, path in paths_of(settings).items():
        try:
            with path.open("rb") as file:
                found[name] = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise TlsUnusable(
                f"{name} {path} cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        if len(found[name]) > _MOST_BYTES:
            raise TlsUnusable(f"{name} {path} is larger than {_MOST_BYTES} bytes")
    return found


def _certificates(
    name: str, settings: TlsSettings, contents: Mapping[str, bytes]
) -> list[x509.Certificate]:
    where = f"{name} {getattr(settings, name)}"
    blocks = _blocks(where, contents[name], b"CERTIFICATE")
    try:
        found = [x509.load_pem_x509_certificate(block) for block in blocks]
        for certificate in found:
            _ = certificate.extensions  # read (and refused) only when looked at
        return found
    except Exception:  # of many kinds
        raise TlsUnusable(f"{where} holds something that is no certificate") from None


def _lists(settings: TlsSettings, content: bytes) -> list[RevocationList]:
    where = f"crl {settings.crl}"
    try:
        return [
            RevocationList(x509.load_pem_x509_crl(block))
            for block in _blocks(where, content, b"X509 CRL")
        ]
    except Exception as error:  # of many kinds
        raise TlsUnusable(f"{where} cannot be used: {str(error)[:200]}") from None


def _blocks(where: str, content: bytes, kind: bytes) -> list[bytes]:
    """The PEM blocks (RFC 7468) of a kind; all that the file begins has to be whole."""
    blocks = list(_BLOCK.finditer(content))
    if len(blocks) != len(_BEGIN.findall(content)):
        raise TlsUnusable(f"{where} is not whole: a block in it has no end")
    found = [block.group() + b"\n" for block in blocks if block.group(1) == kind]
    if not found:
        raise TlsUnusable(f"{where} holds no PEM block {kind.decode()}")
    return found


def _check_key(settings: TlsSettings, content: bytes) -> None:
    try:
        load_pem_private_key(content, None)
    except TypeError:
        raise TlsUnusable(f"key {settings.key} is encrypted: give one that is not") from None
    except Exception:  # what it says of a key is not for the log
        raise TlsUnusable(f"key {settings.key} holds no private key that can be read") from None


def _why(settings: TlsSettings, error: OSError) -> str:
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"key {settings.key} is not that of certificate {settings.certificate}"
    files = ", ".join(f"{name} {path}" for name, path in paths_of(settings).items())
    return f"OpenSSL does not take the files ({reason or type(error).__name__}): {files}"
