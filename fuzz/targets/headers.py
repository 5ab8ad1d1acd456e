"""What peers write into header fields."""

import base64
from ipaddress import IPv4Network
from urllib.parse import quote

from fuzz.targets.texts import encodable, text
from otaflux_oci.challenges import parse_challenges
from otaflux_policy.devices import device_id
from otaflux_server.identities import Unidentified
from otaflux_server.identities.certificates import Names
from otaflux_server.identities.forwarding import ForwardedCertificates
from otaflux_server.ranges import Unsatisfiable, matches, parse_range
from otaflux_server.settings.identities import CertificateField, ForwardedHeader, IdentitySettings

_PEER = "192.0.2.1"
_PROXY = (IPv4Network(_PEER),)
_VERIFIED = (b"ssl-client-verify", b"SUCCESS")


def challenges(data: bytes) -> None:
    """`WWW-Authenticate` of registries."""
    for challenge in parse_challenges([text(data), data.decode("latin-1")]):
        assert challenge.scheme == challenge.scheme.lower()
        assert challenge.scheme
        assert all(name and name == name.lower() for name in challenge.parameters)


def ranges(data: bytes) -> None:
    """`Range` and `If-None-Match`, of contents of several sizes."""
    header = data.decode("latin-1")
    for size in (0, 1, 1000, 1 << 40):
        try:
            span = parse_range(header, size)
        except Unsatisfiable:
            continue
        assert span is None or (0 <= span.start <= span.last < size and span.length > 0)
    assert matches(header, '"x"') in (True, False)


def forwarded_certificates(data: bytes) -> None:
    """What ingresses say of a client's certificate, as it is, and as the encoded certificate."""
    pem = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    escaped = quote(pem % base64.b64encode(data)).encode()
    der = b":" + base64.b64encode(data) + b":"
    for form, name, values in (
        (ForwardedHeader.ENVOY, b"x-forwarded-client-cert", (data, b'Cert="%s"' % escaped)),
        (ForwardedHeader.INGRESS_NGINX, b"ssl-client-cert", (data, escaped)),
        (ForwardedHeader.RFC9440, b"client-cert", (data, der)),
    ):
        for field in CertificateField:
            settings = IdentitySettings(
                forwarded_header=form, certificate_field=field, trusted_peers=_PROXY
            )
            identifier = ForwardedCertificates(settings, Names(settings, "home"))
            for value in values:
                _identify(identifier, [(name, value), _VERIFIED])


def _identify(identifier: ForwardedCertificates, headers: list[tuple[bytes, bytes]]) -> None:
    scope = {"client": (_PEER, 1234), "headers": headers}
    try:
        identity = identifier.identify(scope)
    except Unidentified as error:
        encodable(str(error))
        return
    assert identity.sole is not None
    assert device_id(identity.sole) == identity.sole
    assert identity.permits(identity.sole)
    try:
        identifier.identify({**scope, "client": ("198.51.100.1", 1234)})
    except Unidentified:
        return
    raise AssertionError("a peer that is not trusted was believed")
