"""Which device a certificate names, and from when to when."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from otaflux_server.identities import Identity, Unidentified
from otaflux_server.identities.certificates import CertificateReader, Certificates, Names, pem
from otaflux_server.refusals import Refusal
from otaflux_server.settings import IdentitySettings
from tests.server.identities.authorities import Issued, issue, of_device, uri

HOME = "home"
NOT_OURS = "spiffe://cluster.local/ns/x"


def names(**fields: Any) -> Names:
    return Names(IdentitySettings(**fields), HOME)


def identity(issued: Issued, **fields: Any) -> Identity:
    return CertificateReader(names(**fields), pem).identity(issued.pem)


def refusal(issued: Issued, **fields: Any) -> Refusal:
    with pytest.raises(Unidentified) as raised:
        identity(issued, **fields)
    return raised.value.reason


def test_a_uri_names_namespace_and_device() -> None:
    found = identity(of_device("office", "kitchen-1"))
    assert (found.namespace, found.sole) == ("office", "kitchen-1")
    assert found.permits("kitchen-1")
    assert not found.permits("kitchen-2")


def test_names_that_are_no_devices_do_no_harm() -> None:
    found = identity(issue(uris=(NOT_OURS, uri("home", "a:1")), dns_names=("a.example.com",)))
    assert (found.namespace, found.sole) == ("home", "a:1")


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (NOT_OURS,),
        (uri("home", "a"), uri("home", "b")),
        (uri("home", "a"), uri("home", "a")),
        (uri("home", "a") + "/more",),
        ("x" + uri("home", "a"),),
        (uri("home", "a") + "\n",),
        (uri("Home", "a"),),
        (uri("home", "a") + ";URI=" + uri("home", "b"),),
        (uri("home", "a" * 129),),
    ],
)
def test_exactly_one_name_has_to_be_a_device(uris: tuple[str, ...]) -> None:
    assert refusal(issue(uris=uris)) is Refusal.CERTIFICATE_NAMES_NO_DEVICE


def test_dns_names_and_common_names_by_a_pattern_of_ones_own() -> None:
    dns = {
        "certificate_field": "DNS",
        "certificate_pattern": r"(?P<device>[^.]+)\.(?P<namespace>[^.]+)\.devices\.example",
    }
    found = identity(issue(dns_names=("kitchen-1.office.devices.example",)), **dns)
    assert (found.namespace, found.sole) == ("office", "kitchen-1")
    common = {"certificate_field": "CommonName", "certificate_pattern": "(?P<device>.+)"}
    found = identity(issue(common_name="kitchen-1", uris=(uri("office", "b"),)), **common)
    assert (found.namespace, found.sole) == (HOME, "kitchen-1")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("(?P<device>.*)", "no device id"),
        ("(?P<device>.*)", "-a"),
        ("(?P<device>a)?.*", "b"),
        ("(?P<namespace>.*)/(?P<device>.*)", "../a"),
        ("(?P<namespace>.*)/(?P<device>.*)", "/a"),
        ("(?P<namespace>x)?/?(?P<device>.*)", "a"),
    ],
)
def test_a_lax_pattern_lets_no_odd_ids_and_namespaces_in(pattern: str, name: str) -> None:
    fields = {"certificate_field": "CommonName", "certificate_pattern": pattern}
    assert refusal(issue(common_name=name), **fields) is Refusal.CERTIFICATE_NAMES_NO_DEVICE


@pytest.mark.parametrize(
    ("begins", "ends"), [(timedelta(days=-2), timedelta(days=-1)), (timedelta(1), timedelta(2))]
)
def test_it_has_to_be_valid_now(begins: timedelta, ends: timedelta) -> None:
    issued = issue(uris=(uri(HOME, "a"),), begins=begins, ends=ends)
    assert refusal(issued) is Refusal.CERTIFICATE_EXPIRED


def test_one_that_was_read_before_expires_all_the_same() -> None:
    issued = of_device(HOME, "a")
    now = issued.certificate.not_valid_before_utc.timestamp()
    reader = CertificateReader(names(), pem, clock=lambda: now)
    assert reader.identity(issued.pem).sole == "a"
    now = issued.certificate.not_valid_after_utc.timestamp()
    assert reader.identity(issued.pem).sole == "a"
    now += 1
    with pytest.raises(Unidentified) as raised:
        reader.identity(issued.pem)
    assert raised.value.reason is Refusal.CERTIFICATE_EXPIRED


def test_each_is_read_once() -> None:
    read: list[str] = []

    def reading(text: str) -> x509.Certificate:
        read.append(text)
        return pem(text)

    reader = CertificateReader(names(), reading)
    for issued in (of_device(HOME, "a"), of_device(HOME, "b"), of_device(HOME, "a")):
        assert reader.identity(issued.pem)
    assert len(read) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        of_device(HOME, "a").pem + of_device(HOME, "b").pem,
        of_device(HOME, "a").key_pem,
        of_device(HOME, "a").pem[:-200],
    ],
)
def test_what_is_no_certificate_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(Unidentified) as raised:
        CertificateReader(names(), pem).identity(text)
    assert raised.value.reason is Refusal.CERTIFICATE_UNREADABLE
    assert str(raised.value) == "the certificate cannot be read"


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"extensions": {}},
        {"extensions": {"tls": None}},
        {"extensions": {"tls": {"client_cert_chain": []}}},
        {"extensions": {"tls": {"client_cert_chain": ()}}},
    ],
)
def test_a_connection_without_a_certificate_is_nobodys(scope: dict[str, Any]) -> None:
    with pytest.raises(Unidentified) as raised:
        Certificates(names()).identify(scope)
    assert raised.value.reason is Refusal.NO_CERTIFICATE


def test_the_certificate_is_the_first_of_the_chain() -> None:
    chain = [of_device(HOME, "a").pem, of_device(HOME, "b").pem]
    scope = {"extensions": {"tls": {"client_cert_chain": chain}}}
    assert Certificates(names()).identify(scope).sole == "a"
