"""Who gets through the handshake of the device port, and what the others are told."""

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.fleets import firmware, version_body
from tests.server.tls.authorities import (
    DAY,
    Authority,
    Issued,
    Key,
    p256,
    rsa2048,
    unreadable,
)
from tests.server.tls.ports import SECONDS, Files, Port, alert_of, ask, secured

WEAK = "ALL:@SECLEVEL=0"


def speaking(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context with this version alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("key", [p256, rsa2048])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_device_polls_and_downloads(
    tmp_path: Path,
    files: Files,
    servers: Authority,
    devices: Authority,
    key: Callable[[], Key],
    version: ssl.TLSVersion,
) -> None:
    content = firmware("1.4.0", size=700_000)
    files.serve(servers.server(key()))
    with secured(tmp_path, files, servers) as port:
        port.served.offer("1.4.0", content)
        context = speaking(port.context(devices.client()), version)
        with port.connect(context) as connection:
            assert connection.version() == version.name.replace("v1_", "v1.")
            answer = ask(connection, b"GET /version?device=kitchen-1 HTTP/1.1\r\n\r\n")
            assert answer is not None
            assert answer.body == version_body("1.4.0", content)
            answer = ask(connection, b"GET /firmware?device=kitchen-1 HTTP/1.1\r\n\r\n")
            assert answer is not None
            assert answer.body == content


def test_1_3_is_preferred(port: Port, devices: Authority) -> None:
    with port.connect(port.context(devices.client())) as connection:
        assert connection.version() == "TLSv1.3"


def test_urls_are_https(port: Port, devices: Authority) -> None:
    assert port.served.server.device_url.startswith("https://127.0.0.1:")
    port.served.offer("1.4.0")
    body = b'{"device": "kitchen-1", "version": "1.3.0"}'
    request = b"POST /api/v1/poll HTTP/1.1\r\nHost: updates.test\r\nContent-Length: %d\r\n\r\n%s"
    with port.connect(port.context(devices.client())) as connection:
        answer = ask(connection, request % (len(body), body))
        assert answer is not None
        assert b'"url":"https://updates.test/artifacts/' in answer.body.replace(b" ", b"")


@pytest.mark.parametrize(
    ("minimum", "spoken"),
    [("1.2", ssl.TLSVersion.TLSv1_1), ("1.3", ssl.TLSVersion.TLSv1_2)],
)
def test_older_versions_are_refused(
    tmp_path: Path,
    files: Files,
    servers: Authority,
    devices: Authority,
    minimum: str,
    spoken: ssl.TLSVersion,
) -> None:
    with secured(tmp_path, files, servers, tls={"minimum": minimum}) as port:
        context = port.context(devices.client())
        context.set_ciphers(WEAK)
        assert alert_of(port, speaking(context, spoken)) == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert port.refused("Version") == 1


class TestRefusedCertificates:
    """Each gets an alert, is counted under its reason, and nobody hears of its request."""

    @pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def refused(self, request: pytest.FixtureRequest, port: Port) -> Callable[..., None]:
        def check(client: Issued | None, reason: str, *alerts: str) -> None:
            context = speaking(port.context(client), request.param)
            assert alert_of(port, context) in alerts
            assert port.refused(reason) == 1
            known = port.served.call(lambda: list(port.served.server.devices.keys()))
            assert known == []

        return check

    def test_none(self, refused: Callable[..., None]) -> None:
        refused(
            None,
            "NoCertificate",
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
        )

    def test_of_an_unknown_authority(self, refused: Callable[..., None]) -> None:
        refused(Authority("strangers").client(), "UnknownAuthority", "TLSV1_ALERT_UNKNOWN_CA")

    def test_of_one_that_only_has_the_name(self, refused: Callable[..., None]) -> None:
        refused(
            Authority("devices").client(),
            "UnknownAuthority",
            "TLSV1_ALERT_UNKNOWN_CA",
            "TLSV1_ALERT_DECRYPT_ERROR",
        )

    def test_expired(self, refused: Callable[..., None], devices: Authority) -> None:
        client = devices.client(since=-2 * DAY, until=-DAY)
        refused(client, "Expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED")

    def test_not_yet_valid(self, refused: Callable[..., None], devices: Authority) -> None:
        client = devices.client(since=DAY, until=2 * DAY)
        refused(client, "Expired", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED")

    def test_of_a_server(self, refused: Callable[..., None], devices: Authority) -> None:
        refused(
            devices.server(),
            "CertificateUnfit",
            "TLSV1_ALERT_UNSUPPORTED_CERTIFICATE",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        )

    def test_revoked(self, refused: Callable[..., None], port: Port, devices: Authority) -> None:
        client = devices.client()
        with port.replaced():
            port.files.set(crl=devices.revocations(client))
        refused(client, "Revoked", "SSLV3_ALERT_CERTIFICATE_REVOKED")

    def test_with_a_list_that_is_out_of_date(
        self, refused: Callable[..., None], port: Port, devices: Authority
    ) -> None:
        with port.replaced():
            port.files.set(crl=devices.revocations(since=-2 * DAY, until=-DAY))
        refused(
            devices.client(),
            "RevocationUnknown",
            "TLSV1_ALERT_UNKNOWN_CA",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_BAD_CERTIFICATE",
        )

    def test_without_a_list_of_its_authority(
        self, refused: Callable[..., None], port: Port, devices: Authority
    ) -> None:
        others = Authority("others")
        with port.replaced():
            port.files.set(client_ca=devices.pem + others.pem)
        refused(
            others.client(),
            "RevocationUnknown",
            "TLSV1_ALERT_UNKNOWN_CA",
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        )


class TestChains:
    """Certificates of an authority below the one that is trusted."""

    @pytest.fixture
    def below(self, devices: Authority) -> Authority:
        return Authority("devices of a plant", devices)

    def polls(self, port: Port, client: Issued) -> int | None:
        with port.connect(port.context(client)) as connection:
            answer = ask(connection)
            return None if answer is None else answer.status

    def test_are_accepted(self, port: Port, devices: Authority, below: Authority) -> None:
        with port.replaced():
            port.files.set(crl=devices.revocations() + below.revocations())
        assert self.polls(port, below.client()) == 200

    def test_also_where_the_one_below_is_what_is_trusted(
        self, port: Port, below: Authority
    ) -> None:
        with port.replaced():
            port.files.set(client_ca=below.pem, crl=below.revocations())
        assert self.polls(port, below.client()) == 200

    @pytest.mark.parametrize("reason", ["Revoked", "RevocationUnknown"])
    def test_revoked_above_gets_401(
        self, port: Port, devices: Authority, below: Authority, reason: str
    ) -> None:
        revoked = [below.certificate] if reason == "Revoked" else []
        until = DAY if reason == "Revoked" else -DAY / 2
        above = devices.revocations(*revoked, until=until)
        with port.replaced():
            port.files.set(crl=above + below.revocations())
        with port.connect(port.context(below.client())) as connection:
            answer = ask(connection)
            assert answer is not None
            assert (answer.status, reason.encode() in answer.body) == (401, True)
            assert ask(connection) is None
        assert port.refused(reason) == 1

    def test_one_that_cannot_be_read_makes_nothing_unchecked(
        self, port: Port, devices: Authority, below: Authority
    ) -> None:
        with port.replaced():
            port.files.set(crl=devices.revocations(below.certificate) + below.revocations())
        client = below.client()
        context = port.context()
        certificate, key = client.write(port.files.folder, "odd")
        certificate.write_bytes(client.pem + unreadable(devices.certificate))
        context.load_cert_chain(certificate, key)
        with port.connect(context) as connection:
            answer = ask(connection)
            assert answer is not None
            assert (answer.status, b"CertificateUnfit" in answer.body) == (401, True)
            assert ask(connection) is None
        assert port.refused("CertificateUnfit") == 1

    def test_longer_than_allowed_are_refused(self, port: Port) -> None:
        root = Authority("short", path_length=0)
        client = Authority("too deep", Authority("deep", root)).client()
        with port.replaced():
            port.files.set(client_ca=root.pem, crl=root.revocations())
        with pytest.raises(ssl.SSLError), port.connect(port.context(client)) as connection:
            assert ask(connection) is None


def test_without_client_ca_nobody_has_to_show_one(
    tmp_path: Path, files: Files, servers: Authority
) -> None:
    tls: dict[str, Any] = {"client_ca": None, "crl": None}
    with (
        secured(tmp_path, files, servers, tls=tls) as port,
        port.connect(port.context()) as connection,
    ):
        answer = ask(connection)
        assert answer is not None
        assert answer.status == 200


def test_many_at_once_are_told_apart(port: Port, devices: Authority) -> None:
    good = port.context(devices.client())
    stranger = port.context(Authority("strangers").client())

    def polls(_: int) -> int | None:
        with port.connect(good) as connection:
            answer = ask(connection)
            return None if answer is None else answer.status

    def speaks_plainly(_: int) -> bytes:
        with port.plain() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return _all(connection)

    with ThreadPoolExecutor(30) as pool:
        told = [
            (
                pool.submit(polls, number),
                pool.submit(alert_of, port, stranger),
                pool.submit(speaks_plainly, number),
            )
            for number in range(50)
        ]
        for answer, alert, plain in told:
            assert answer.result(SECONDS) == 200
            assert alert.result(SECONDS) == "TLSV1_ALERT_UNKNOWN_CA"
            assert b"HTTP/1.1" not in plain.result(SECONDS)
    assert (port.refused("UnknownAuthority"), port.refused("NotTls")) == (50, 50)


class TestWhatIsNoHandshake:
    def test_a_greeting_that_is_there_at_once_is_answered(
        self, port: Port, devices: Authority
    ) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = port.context(devices.client()).wrap_bio(
            incoming, outgoing, server_hostname="127.0.0.1"
        )
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        sent = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(port.served.call, lambda: sent.wait(SECONDS))
            with port.plain() as connection:
                connection.sendall(outgoing.read())
                sent.set()
                assert held.result(SECONDS)
                answer = connection.recv(65536)
                assert answer
                incoming.write(answer)
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                assert client.version() == "TLSv1.3"

    def test_plain_http_is_refused(self, port: Port) -> None:
        with port.plain() as connection:
            connection.sendall(b"GET /version?device=kitchen-1 HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1" not in _all(connection)
        assert port.refused("NotTls") == 1

    def test_silence_is_ended(self, tmp_path: Path, files: Files, servers: Authority) -> None:
        with (
            secured(tmp_path, files, servers, tls={"handshake_seconds": 0.2}) as port,
            port.plain() as connection,
        ):
            assert _all(connection) == b""
            port.served.wait(lambda: port.refused("Timeout") == 1)

    def test_half_a_greeting_is_ended(
        self, tmp_path: Path, files: Files, servers: Authority
    ) -> None:
        with (
            secured(tmp_path, files, servers, tls={"handshake_seconds": 0.2}) as port,
            port.plain() as connection,
        ):
            connection.sendall(bytes.fromhex("16030101ff010001"))
            assert _all(connection) == b""
            port.served.wait(lambda: port.refused("Timeout") == 1)

    def test_who_goes_away_is_counted(self, port: Port) -> None:
        port.plain().close()
        port.served.wait(lambda: port.refused("Closed") == 1)

    def test_who_does_not_trust_the_server_says_so(self, port: Port, devices: Authority) -> None:
        context = ssl.create_default_context(cadata=devices.pem.decode())
        with pytest.raises(ssl.SSLCertVerificationError), port.connect(context):
            pass
        port.served.wait(lambda: port.refused("Alert") == 1)

    def test_those_under_way_count_as_connections(
        self, tmp_path: Path, files: Files, servers: Authority, devices: Authority
    ) -> None:
        connections = {"max_connections": 2}
        tls = {"handshake_seconds": 600.0}  # nobody else ends one
        with secured(tmp_path, files, servers, connections=connections, tls=tls) as port:
            context = port.context(devices.client())
            with port.plain(), port.connect(context) as connection:
                assert ask(connection) is not None
                with port.plain() as third:
                    assert _all(third) == b""
            with port.connect(context) as connection:  # the places are free again
                assert ask(connection) is not None
            port.served.wait(lambda: not port.served.server.connections._open)

    def test_the_server_ends_while_some_are_under_way(
        self, tmp_path: Path, files: Files, servers: Authority
    ) -> None:
        with secured(tmp_path, files, servers) as port:
            connection = port.plain()
            port.served.wait(lambda: len(port.served.server.connections._open) == 1)
        with connection:
            assert _all(connection) == b""


def _all(connection: socket.socket) -> bytes:
    """What comes until the connection ends."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found
