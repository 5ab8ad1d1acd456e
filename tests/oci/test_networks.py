"""Which addresses may be connected to."""

import ipaddress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from otaflux_oci.networks import (
    METADATA_ADDRESSES,
    PRIVATE_NETWORKS,
    Address,
    Network,
    RegistrySettings,
    is_allowed,
)

DEFAULT = RegistrySettings().allowed_networks
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))

PUBLIC = ["1.1.1.1", "140.82.121.33", "2606:4700::1111", "2a00:1450:4001:800::2004"]
PRIVATE = ["10.96.0.10", "172.16.0.1", "172.31.255.254", "192.168.1.5", "100.64.0.1", "fd12::1"]
LOCAL = ["127.0.0.1", "127.255.255.254", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0"]
METADATA = sorted(map(str, METADATA_ADDRESSES))
NEVER = ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1"]
RESERVED = [
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.1",
    "240.0.0.1",
    "100::1",
    "2001:2::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "fec0::1",
    "64:ff9b:1::1",
]


def carriers(text: str) -> list[str]:
    """The forms in which an IPv6 address carries this IPv4 address."""
    inner = int(ip_address(text))
    high, low = inner >> 16, inner & 0xFFFF
    flipped_high, flipped_low = high ^ 0xFFFF, low ^ 0xFFFF
    return [
        f"::ffff:{text}",
        f"::ffff:0:{text}",
        f"64:ff9b::{text}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:808:808:0:0:{flipped_high:x}:{flipped_low:x}",  # Teredo: the client
        f"2001:0:{high:x}:{low:x}:0:0:{0x0808 ^ 0xFFFF:x}:{0x0808 ^ 0xFFFF:x}",  # its server
        f"2606:4700::5efe:{high:x}:{low:x}",  # ISATAP
        f"2606:4700::200:5efe:{high:x}:{low:x}",
        *([f"::{text}"] if inner > 1 else []),
    ]


def allowed(text: str, *networks: str) -> bool:
    return is_allowed(ip_address(text), [ip_network(network) for network in networks])


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet_is_allowed(text: str) -> None:
    assert allowed(text)


@pytest.mark.parametrize("text", PRIVATE)
def test_private_ranges_are_allowed_by_default_and_by_listing_only(text: str) -> None:
    assert is_allowed(ip_address(text), DEFAULT)
    assert not allowed(text)
    assert allowed(text, text)


@pytest.mark.parametrize("text", LOCAL + METADATA + NEVER + RESERVED)
def test_what_is_not_for_registries_is_refused_by_default(text: str) -> None:
    assert not is_allowed(ip_address(text), DEFAULT)


@pytest.mark.parametrize("text", LOCAL + METADATA + NEVER)
def test_a_listing_of_everything_does_not_open_what_is_dangerous(text: str) -> None:
    assert not is_allowed(ip_address(text), EVERYTHING)


@pytest.mark.parametrize("text", [*RESERVED, *PRIVATE])
def test_a_listing_opens_what_is_merely_not_public(text: str) -> None:
    assert is_allowed(ip_address(text), EVERYTHING)


@pytest.mark.parametrize(
    ("text", "network", "opened"),
    [
        ("127.0.0.1", "127.0.0.0/8", True),
        ("127.0.0.2", "127.0.0.1/32", False),
        ("127.0.0.1", "126.0.0.0/7", False),
        ("::1", "::1/128", True),
        ("::1", "::/0", False),
        ("169.254.1.1", "169.254.0.0/16", True),
        ("fe80::1", "fe80::/10", True),
        ("169.254.169.254", "169.254.0.0/16", False),
        ("169.254.169.254", "169.254.169.254/32", True),
        ("100.100.100.200", "100.64.0.0/10", False),
        ("100.100.100.200", "100.100.100.200/32", True),
        ("168.63.129.16", "168.63.129.16/32", True),
        ("fd00:ec2::254", "fc00::/7", False),
        ("fd00:ec2::254", "fd00:ec2::254/128", True),
        ("0.0.0.0", "0.0.0.0/32", False),
        ("255.255.255.255", "255.255.255.255/32", False),
        ("224.0.0.1", "224.0.0.0/4", False),
        ("::", "::/128", False),
    ],
)
def test_what_a_listing_opens(text: str, network: str, opened: bool) -> None:
    assert allowed(text, network) is opened


@pytest.mark.parametrize("text", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0"])
def test_ipv4_hides_in_no_ipv6(text: str) -> None:
    for carrier in carriers(text):
        assert not allowed(carrier), carrier
        assert not is_allowed(ip_address(carrier), [ip_network("::/0")]), carrier


def test_a_carrier_is_judged_as_what_it_carries() -> None:
    for carrier in carriers("10.0.0.1"):
        assert allowed(carrier, "10.0.0.0/8"), carrier
    for carrier in carriers("1.1.1.1"):
        assert allowed(carrier), carrier


ADDRESSES = st.ip_addresses()
NETWORKS = st.sampled_from([*DEFAULT, *EVERYTHING, ip_network("127.0.0.0/8")])


@given(ADDRESSES, st.lists(NETWORKS))
def test_every_address_gets_an_answer_and_a_longer_list_never_closes(
    address: Address, networks: list[Network]
) -> None:
    assert is_allowed(address, networks) or not is_allowed(address, ())


@given(st.ip_addresses(v=4))
def test_carriers_agree_with_what_they_carry(address: ipaddress.IPv4Address) -> None:
    for carrier in carriers(str(address)):
        for networks in ((), PRIVATE_NETWORKS):
            assert is_allowed(ip_address(carrier), networks) == is_allowed(address, networks)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "registry.example.com", "10.0.0.0/33", ""])
def test_a_setting_that_is_no_network(text: str) -> None:
    with pytest.raises(ValidationError, match="allowed_networks"):
        RegistrySettings.model_validate({"allowed_networks": [text]})
