"""What proxies write into headers about the client's certificate. Pure; nothing is believed yet.

Each function raises `MalformedHeader` for what its proxy would not write; the message has none of
the header's text.
"""

import base64
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

_PAIR = re.compile(r'(?P<key>[A-Za-z]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",;]*))')
_BYTES = re.compile(r":(?P<base64>[A-Za-z0-9+/]*={0,2}):")
_SEVERAL = frozenset({"uri", "dns"})
_KNOWN = 4096
"""Headers that are remembered: a device's is the same each time."""


class MalformedHeader(Exception):
    """The value is not of the form that the proxy writes."""


@dataclass(frozen=True, slots=True)
class XfccElement:
    """One element of `X-Forwarded-Client-Cert`.

    `certificate`: PEM, URL-encoded; None where the proxy does not forward it. `uris`, `dns_names`:
    subject alternative names, which Envoy neither quotes nor escapes.
    """

    certificate: str | None
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]


@lru_cache(_KNOWN)
def xfcc(text: str) -> XfccElement:
    """The only element (Envoy, "HTTP header manipulation", x-forwarded-client-cert).

    Several elements, as proxies in a row append them, are refused: it is not known whose client
    is the device. So is whatever a name in a certificate could have put there, by a `;` or `"` of
    its own: a key twice (but URI and DNS), a Cert after them or a URI after a DNS, where Envoy
    writes none.
    """
    found: dict[str, list[str]] = {}
    position = 0
    while True:
        pair = _PAIR.match(text, position)
        if pair is None:
            raise MalformedHeader("no list of keys and values")
        key, value = pair["key"].lower(), pair["plain"]
        if value is None:
            value = pair["quoted"]
            if value.endswith("\\"):  # some would read on: \\" is a quote to them
                raise MalformedHeader("a quoted value ends with a backslash")
            value = value.replace('\\"', '"')
        if key in found and key not in _SEVERAL:
            raise MalformedHeader("a key came twice")
        if key == "cert" and not _SEVERAL.isdisjoint(found):
            raise MalformedHeader("Cert comes after URI or DNS")
        if key == "uri" and "dns" in found:
            raise MalformedHeader("URI comes after DNS")
        found.setdefault(key, []).append(value)
        position = pair.end()
        if position == len(text):
            break
        if text[position] != ";":
            raise MalformedHeader("not exactly one element")
        position += 1
    (certificate,) = found.get("cert", [None])
    return XfccElement(certificate, tuple(found.get("uri", ())), tuple(found.get("dns", ())))


def escaped_pem(text: str) -> str:
    """A URL-encoded PEM (nginx's `$ssl_client_escaped_cert`, Envoy's `Cert`)."""
    return unquote(text)


def byte_sequence(text: str) -> bytes:
    """The content of a byte sequence (RFC 9440, section 2.2; RFC 8941, section 3.3.5)."""
    found = _BYTES.fullmatch(text)
    if found is None:
        raise MalformedHeader("no byte sequence")
    try:
        return base64.b64decode(found["base64"], validate=True)
    except ValueError:
        raise MalformedHeader("no base64") from None
