"""What proxies forward: the forms of their headers, and from whom they are believed."""

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_server.identities import Identity, Unidentified
from otaflux_server.identities.certificates import Names
from otaflux_server.identities.forwarded_headers import (
    MalformedHeader,
    XfccElement,
    byte_sequence,
    xfcc,
)
from otaflux_server.identities.forwarding import ForwardedCertificates
from otaflux_server.refusals import Refusal
from otaflux_server.settings import IdentitySettings
from tests.server.identities.authorities import issue, of_device, uri

HOME = "home"
A, B = uri(HOME, "a"), uri(HOME, "b")
CERT = of_device(HOME, "a")
PROXY = "10.0.0.1"


def identifier(header: str, **fields: Any) -> ForwardedCertificates:
    values = {
        "kind": "ForwardedCertificate",
        "forwarded_header": header,
        "trusted_peers": ["10.0.0.0/8", "fd00::/8"],
    }
    settings = IdentitySettings(**(values | fields))
    return ForwardedCertificates(settings, Names(settings, HOME))


def scope(*headers: tuple[str, str], peer: str | None = PROXY) -> dict[str, Any]:
    return {
        "client": None if peer is None else (peer, 1234),
        "headers": [(name.lower().encode(), text.encode("latin-1")) for name, text in headers],
    }


def refusal(asked: ForwardedCertificates, asking: dict[str, Any]) -> Refusal:
    with pytest.raises(Unidentified) as raised:
        asked.identify(asking)
    return raised.value.reason


def envoy(text: str, **fields: Any) -> Identity:
    return identifier("Envoy", **fields).identify(scope(("X-Forwarded-Client-Cert", text)))


def envoy_refusal(text: str, **fields: Any) -> Refusal:
    asking = scope(("X-Forwarded-Client-Cert", text))
    return refusal(identifier("Envoy", **fields), asking)


# Envoy


@pytest.mark.parametrize(
    "text",
    [
        f"URI={A}",
        f"By=spiffe://x/y;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;"
        f'Subject="/C=US\\, x=\\"y\\";URI=b/CN=T";URI={A};DNS=a.example.com;DNS=b.example.com',
        f'Hash=1;Cert="{CERT.quoted}"',
        f'Hash=1;Cert="{CERT.quoted}";Chain="{CERT.quoted}";Subject="";URI={B};DNS=b',
        f'hash=1;CERT="{CERT.quoted}"',
        f"Hash=1;Cert={CERT.quoted};URI=",
        f'URI="{A}"',
    ],
)
def test_envoy_names_the_device_by_uri_or_by_the_certificate_itself(text: str) -> None:
    assert envoy(text).sole == "a"


def test_envoy_names_it_by_dns() -> None:
    fields = {"certificate_field": "DNS", "certificate_pattern": "(?P<device>.*)"}
    assert envoy("Hash=1;DNS=a", **fields).sole == "a"
    named = issue(dns_names=("a",))
    assert envoy(f'Hash=1;Cert="{named.quoted}";URI=;DNS=b', **fields).sole == "a"


@pytest.mark.parametrize("text", [f"Hash=1;URI={B};DNS=a", "URI=;DNS=a", "DNS=b;DNS=a"])
def test_a_dns_name_that_a_uri_may_have_made_up_is_nobodys(text: str) -> None:
    """The URI `;DNS=a` in a certificate without a DNS name becomes `URI=;DNS=a`."""
    fields = {"certificate_field": "DNS", "certificate_pattern": "(?P<device>.*)"}
    assert envoy_refusal(text, **fields) is Refusal.CERTIFICATE_NAMES_NO_DEVICE


@pytest.mark.parametrize(
    "text",
    [
        f"URI={A};URI={B}",
        f"URI=;URI={A}",
        f"URI={B.upper()}",
        f"URI={A} ;Hash=1",
        "Hash=1",
        f'Hash=1;Subject="CN=a;URI={A}"',
        f'Hash=1;Subject="CN=a\\";URI={A}"',
    ],
)
def test_several_names_or_none_of_envoy_are_nobodys(text: str) -> None:
    """Envoy does not escape names, so one name may look like two."""
    assert envoy_refusal(text) is Refusal.CERTIFICATE_NAMES_NO_DEVICE


def test_a_common_name_is_taken_from_the_certificate_alone() -> None:
    fields = {"certificate_field": "CommonName", "certificate_pattern": "(?P<device>.*)"}
    issued = issue(common_name="a")
    assert envoy(f'Hash=1;Cert="{issued.quoted}"', **fields).sole == "a"
    refused = envoy_refusal('Hash=1;Subject="CN=a"', **fields)
    assert refused is Refusal.CERTIFICATE_NAMES_NO_DEVICE


@pytest.mark.parametrize(
    "text",
    [
        f"URI={A},URI={B}",
        f"URI={A},",
        f",URI={A}",
        f"URI={A};",
        f";URI={A}",
        f"URI={A};Hash=1;Hash=2",
        f'URI={B};Cert="{CERT.quoted}"',
        f'DNS=b;Cert="{CERT.quoted}"',
        f"Hash=1;DNS=b;URI={A}",
        f'Cert="{CERT.quoted}";Cert="{CERT.quoted}"',
        f'Subject="CN=a\\\\";URI={A}',
        f'Subject="CN=a;URI={A}',
        f'Subject="CN=a"x;URI={A}',
        f'URI=x"{A}"',
        "URI",
        "=a",
        "nonsense",
    ],
)
def test_what_envoy_would_not_write_is_refused(text: str) -> None:
    assert envoy_refusal(text) is Refusal.MALFORMED_HEADER


@given(st.text(st.characters(codec="latin-1")))
def test_xfcc_is_an_element_or_malformed(text: str) -> None:
    with contextlib.suppress(MalformedHeader):
        assert isinstance(xfcc(text), XfccElement)


@given(st.text(st.characters(codec="latin-1", exclude_characters="\\")), st.booleans())
def test_no_quoted_subject_adds_a_name(subject: str, before: bool) -> None:
    quoted = 'Subject="' + subject.replace('"', '\\"') + '"'
    parts = [quoted, f"URI={A}"] if before else [f"URI={A}", quoted]
    assert xfcc(";".join(parts)) == XfccElement(None, (A,), ())


# ingress-nginx and RFC 9440


def test_nginx_names_the_device_by_the_verified_certificate() -> None:
    asking = scope(("ssl-client-verify", "SUCCESS"), ("ssl-client-cert", CERT.quoted))
    assert identifier("IngressNginx").identify(asking).sole == "a"


VERIFIED = ("ssl-client-verify", "SUCCESS")
QUOTED = ("ssl-client-cert", CERT.quoted)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), Refusal.NOT_VERIFIED),
        ((QUOTED,), Refusal.NOT_VERIFIED),
        ((("ssl-client-verify", "NONE"), QUOTED), Refusal.NOT_VERIFIED),
        ((("ssl-client-verify", "FAILED:expired"), QUOTED), Refusal.NOT_VERIFIED),
        ((("ssl-client-verify", "success"), QUOTED), Refusal.NOT_VERIFIED),
        ((("ssl-client-verify", "SUCCESS, SUCCESS"), QUOTED), Refusal.NOT_VERIFIED),
        ((VERIFIED, VERIFIED, QUOTED), Refusal.DUPLICATE_HEADER),
        ((VERIFIED, ("ssl-client-verify", "FAILED"), QUOTED), Refusal.DUPLICATE_HEADER),
        ((VERIFIED, QUOTED, QUOTED), Refusal.DUPLICATE_HEADER),
        ((VERIFIED,), Refusal.NO_CERTIFICATE),
        ((VERIFIED, ("ssl-client-cert", "")), Refusal.NO_CERTIFICATE),
        ((VERIFIED, ("ssl-client-cert", "%zz")), Refusal.CERTIFICATE_UNREADABLE),
        ((VERIFIED, ("ssl-client-cert", "\xff%ff")), Refusal.CERTIFICATE_UNREADABLE),
        ((VERIFIED, ("ssl_client_cert", CERT.quoted)), Refusal.NO_CERTIFICATE),
    ],
)
def test_what_nginx_did_not_verify_is_nobodys(headers: Any, reason: Refusal) -> None:
    assert refusal(identifier("IngressNginx"), scope(*headers)) is reason


def test_rfc_9440_names_the_device_by_a_byte_sequence() -> None:
    asking = scope(("Client-Cert", CERT.sequence), ("Client-Cert-Chain", "::"))
    assert identifier("RFC9440").identify(asking).sole == "a"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), Refusal.NO_CERTIFICATE),
        (
            (("Client-Cert", CERT.sequence), ("Client-Cert", CERT.sequence)),
            Refusal.DUPLICATE_HEADER,
        ),
        ((("Client-Cert", f"{CERT.sequence}, {CERT.sequence}"),), Refusal.MALFORMED_HEADER),
        ((("Client-Cert", CERT.sequence.strip(":")),), Refusal.MALFORMED_HEADER),
        ((("Client-Cert", CERT.sequence + ";a=1"),), Refusal.MALFORMED_HEADER),
        ((("Client-Cert", ":A:"),), Refusal.MALFORMED_HEADER),
        ((("Client-Cert", ":é:"),), Refusal.MALFORMED_HEADER),
        ((("Client-Cert", "::"),), Refusal.CERTIFICATE_UNREADABLE),
        ((("Client-Cert", ":AAAA:"),), Refusal.CERTIFICATE_UNREADABLE),
    ],
)
def test_what_is_no_byte_sequence_is_nobodys(headers: Any, reason: Refusal) -> None:
    assert refusal(identifier("RFC9440"), scope(*headers)) is reason


@given(st.binary())
def test_a_byte_sequence_is_read_back(data: bytes) -> None:
    assert byte_sequence(f":{base64.b64encode(data).decode()}:") == data


# Peers


@pytest.mark.parametrize("peer", ["10.0.0.1", "10.255.255.255", "::ffff:10.0.0.1", "fd00::1"])
def test_a_proxy_is_believed_by_its_address(peer: str) -> None:
    asking = scope(("Client-Cert", CERT.sequence), peer=peer)
    assert identifier("RFC9440").identify(asking).sole == "a"


@pytest.mark.parametrize(
    "peer",
    ["11.0.0.1", "127.0.0.1", "::ffff:11.0.0.1", "::1", "fe80::1%eth0", "a socket", "", None],
)
def test_nobody_else_is(peer: str | None) -> None:
    asking = scope(
        ("Client-Cert", CERT.sequence), ("X-Forwarded-For", PROXY), ("Forwarded", PROXY), peer=peer
    )
    assert refusal(identifier("RFC9440"), asking) is Refusal.UNTRUSTED_PEER
