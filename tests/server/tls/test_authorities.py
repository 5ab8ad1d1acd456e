"""Which chains of certificates are accepted, and until when: without a connection."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from otaflux_server.tls.authorities import ClientAuthorities
from otaflux_server.tls.reasons import TlsRefusal
from otaflux_server.tls.revocations import NotAccepted, RevocationList
from tests.server.tls.authorities import DAY, Authority, Issued

NOW = datetime.now(UTC)


def chain(issued: Issued) -> list[x509.Certificate]:
    return [issued.certificate, *issued.between]


def lists(*pem: bytes) -> list[RevocationList]:
    return [RevocationList(x509.load_pem_x509_crl(content)) for content in pem]


def refusal(
    authorities: ClientAuthorities, issued: Issued, now: datetime = NOW
) -> TlsRefusal | None:
    try:
        authorities.accept(chain(issued), now)
    except NotAccepted as error:
        return error.reason
    return None


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("root")


@pytest.fixture(scope="module")
def below(root: Authority) -> Authority:
    return Authority("below", root)


def test_until_the_first_of_the_chain_ends(root: Authority, below: Authority) -> None:
    trusting = ClientAuthorities([root.certificate], None)
    issued = below.client(until=5 * DAY)
    assert trusting.accept(chain(issued), NOW) == issued.certificate.not_valid_after_utc
    longer = below.client(until=90 * DAY)
    assert trusting.accept(chain(longer), NOW) == below.certificate.not_valid_after_utc


def test_until_a_list_is_due(root: Authority, below: Authority) -> None:
    known = lists(root.revocations(until=3 * DAY), below.revocations(until=2 * DAY))
    until = ClientAuthorities([root.certificate], known).accept(chain(below.client()), NOW)
    assert DAY < until - NOW < 3 * DAY


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(-10, None), (11 * 86400, TlsRefusal.EXPIRED), (-86400 - 60, TlsRefusal.EXPIRED)],
)
def test_time(root: Authority, seconds: int, reason: TlsRefusal | None) -> None:
    trusting = ClientAuthorities([root.certificate], None)
    assert refusal(trusting, root.client(), NOW + timedelta(seconds=seconds)) is reason


@pytest.mark.parametrize(
    "issued",
    [
        lambda _, below: Issued(below.client().certificate, below.key),  # nothing between
        lambda _root, _below: Authority("root").client(),
        lambda root, _: root.client(usage=ExtendedKeyUsageOID.SERVER_AUTH),
        lambda root, _: _issued_by_a_client(root),
        lambda root, _: Authority("b", Authority("a", root, path_length=0)).client(),
    ],
    ids=["nothing between", "only the name", "of a server", "by a client", "too long"],
)
def test_what_does_not_lead_to_an_authority(
    root: Authority, below: Authority, issued: Callable[[Authority, Authority], Issued]
) -> None:
    trusting = ClientAuthorities([root.certificate], None)
    assert refusal(trusting, issued(root, below)) is TlsRefusal.UNKNOWN_AUTHORITY


def _issued_by_a_client(root: Authority) -> Issued:
    """Whoever has a certificate of a device issues further ones."""
    client = root.client()
    impostor = Authority("impostor", root)
    impostor.name, impostor.key = client.certificate.subject, client.key
    return Issued(impostor.client().certificate, client.key, (client.certificate,))


def test_nothing_shown(root: Authority) -> None:
    with pytest.raises(NotAccepted) as caught:
        ClientAuthorities([root.certificate], None).accept([], NOW)
    assert caught.value.reason is TlsRefusal.NO_CERTIFICATE


class TestRevocations:
    def test_a_list_that_another_signed_says_nothing(self, root: Authority) -> None:
        forged = Authority("root").revocations()
        trusting = ClientAuthorities([root.certificate], lists(forged))
        assert refusal(trusting, root.client()) is TlsRefusal.REVOCATION_UNKNOWN

    def test_one_list_that_revokes_is_enough(self, root: Authority) -> None:
        client = root.client()
        known = lists(root.revocations(), root.revocations(client), root.revocations())
        assert refusal(ClientAuthorities([root.certificate], known), client) is TlsRefusal.REVOKED

    def test_one_out_of_date_still_revokes(self, root: Authority) -> None:
        client = root.client()
        old = root.revocations(client, since=-3 * DAY, until=-DAY)
        trusting = ClientAuthorities([root.certificate], lists(old, root.revocations()))
        assert refusal(trusting, client) is TlsRefusal.REVOKED

    @pytest.mark.parametrize(("since", "until"), [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
    def test_one_of_another_time_says_nothing(
        self, root: Authority, since: timedelta, until: timedelta
    ) -> None:
        known = lists(root.revocations(since=since, until=until))
        trusting = ClientAuthorities([root.certificate], known)
        assert refusal(trusting, root.client()) is TlsRefusal.REVOCATION_UNKNOWN

    def test_the_list_of_each_authority_is_wanted(self, root: Authority, below: Authority) -> None:
        trusting = ClientAuthorities([root.certificate], lists(below.revocations()))
        assert refusal(trusting, below.client()) is TlsRefusal.REVOCATION_UNKNOWN

    def test_an_authority_that_is_revoked_takes_its_devices_with_it(
        self, root: Authority, below: Authority
    ) -> None:
        known = lists(root.revocations(below.certificate), below.revocations())
        trusting = ClientAuthorities([root.certificate], known)
        assert refusal(trusting, below.client()) is TlsRefusal.REVOKED
