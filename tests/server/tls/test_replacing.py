"""Files that are replaced while connections are open: nobody is dropped who is still accepted."""

import contextlib
import json
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.server.fleets import Answer, firmware
from tests.server.tls.authorities import DAY, Authority, Issued
from tests.server.tls.ports import SECONDS, Files, Port, alert_of, ask, secured, swap_link

SOON = timedelta(seconds=3)


def status(connection: ssl.SSLSocket) -> int | None:
    answer = ask(connection)
    return None if answer is None else answer.status


def serial(connection: ssl.SSLSocket) -> str:
    found = connection.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


def ended(connection: ssl.SSLSocket) -> ssl.SSLSession | None:
    """Its session; of a connection that is just cut OpenSSL keeps none."""
    session = connection.session
    with contextlib.suppress(OSError):
        connection.unwrap()
    return session


class TestTheServersCertificate:
    def test_is_new_for_new_connections_and_old_ones_go_on(
        self, port: Port, servers: Authority, devices: Authority
    ) -> None:
        context = port.context(devices.client())
        with port.connect(context) as held:
            assert status(held) == 200
            with port.replaced():
                port.files.serve(servers.server())
            assert status(held) == 200
            with port.connect(context) as fresh:
                assert status(fresh) == 200
                assert serial(fresh) != serial(held)
            assert status(held) == 200

    def test_is_replaced_under_a_download(
        self, port: Port, servers: Authority, devices: Authority
    ) -> None:
        content = firmware("1.4.0", size=8_000_000)
        port.served.offer("1.4.0", content)
        with port.connect(port.context(devices.client())) as held:
            told = ask(held, b"GET /version?device=kitchen-1 HTTP/1.1\r\n\r\n")
            assert told is not None
            assert told.status == 200
            held.sendall(b"GET /firmware?device=kitchen-1 HTTP/1.1\r\n\r\n")
            raw = held.recv(65536)
            with port.replaced():
                port.files.serve(servers.server())
            while len(Answer(raw).body) < len(content):
                part = held.recv(1 << 20)
                assert part
                raw += part
            assert Answer(raw).body == content

    def test_tells_when_it_expires(self, port: Port, servers: Authority) -> None:
        def expiry() -> float:
            name = "otaflux_tls_expiry_timestamp_seconds"
            return port.metric(name, port="device", file="certificate")

        first = expiry()
        with port.replaced():
            port.files.serve(servers.server(until=20 * DAY))
        assert 9 * 86400 < expiry() - first < 11 * 86400

    def test_comes_through_links_as_kubelet_swaps_them(
        self, tmp_path: Path, servers: Authority, devices: Authority
    ) -> None:
        files = Files(tmp_path / "mounted")
        first, second = servers.server(), servers.server()
        shared = {"client_ca": devices.pem}
        swap_link(files.folder, "1", {"certificate": first.pem, "key": first.key_pem, **shared})
        context_of = devices.client()
        with secured(tmp_path, files, servers) as port:
            context = port.context(context_of)
            with port.connect(context) as held:
                assert serial(held) == f"{first.certificate.serial_number:X}".zfill(
                    len(serial(held))
                )
                with port.replaced():
                    swap_link(
                        files.folder,
                        "2",
                        {"certificate": second.pem, "key": second.key_pem, **shared},
                    )
                assert status(held) == 200
                with port.connect(context) as fresh:
                    assert serial(fresh) != serial(held)


class TestWhatIsNoLongerAccepted:
    """Refused at the next request of a held connection, and in the handshake of a new one."""

    @pytest.fixture
    def others(self) -> Authority:
        return Authority("others")

    @pytest.fixture
    def both(self, port: Port, devices: Authority, others: Authority) -> Port:
        with port.replaced():
            port.files.set(
                client_ca=devices.pem + others.pem,
                crl=devices.revocations() + others.revocations(),
            )
        return port

    def check(self, port: Port, change: Callable[[], None], refused: Issued, kept: Issued) -> str:
        """The reason that the refused one is told."""
        refused_context = port.context(refused)
        with (
            port.connect(refused_context) as loser,
            port.connect(port.context(kept)) as winner,
        ):
            assert (status(loser), status(winner)) == (200, 200)
            with port.replaced():
                change()
            answer = ask(loser)
            assert answer is not None
            assert answer.status == 401
            assert answer.headers["Connection"] == "close"
            assert ask(loser) is None
            assert status(winner) == 200
        assert "ALERT" in alert_of(port, refused_context)
        return answer.body.decode()

    def test_an_authority_that_is_removed(
        self, both: Port, devices: Authority, others: Authority
    ) -> None:
        def change() -> None:
            both.files.set(client_ca=devices.pem)

        why = self.check(both, change, others.client(), devices.client())
        assert "UnknownAuthority" in why
        assert both.refused("UnknownAuthority") == 2

    def test_a_certificate_that_is_revoked(self, both: Port, devices: Authority) -> None:
        client = devices.client()

        def change() -> None:
            lists = devices.revocations(client)
            others = both.files.path("crl").read_bytes().split(b"-----END X509 CRL-----\n")[1]
            both.files.set(crl=lists + others + b"-----END X509 CRL-----\n")

        assert "Revoked" in self.check(both, change, client, devices.client("kitchen-2"))
        assert both.refused("Revoked") == 2

    def test_an_authority_without_a_list(
        self, both: Port, devices: Authority, others: Authority
    ) -> None:
        def change() -> None:
            both.files.set(crl=devices.revocations())

        why = self.check(both, change, others.client(), devices.client())
        assert "RevocationUnknown" in why

    def test_a_certificate_that_expires(self, port: Port, devices: Authority) -> None:
        context = port.context(devices.client(until=SOON))
        with port.connect(context) as held:
            assert self.last(held) == (401, b"Expired")
        assert alert_of(port, context) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"

    def test_a_list_that_expires(self, port: Port, devices: Authority) -> None:
        with port.replaced():
            port.files.set(crl=devices.revocations(until=SOON))
        with port.connect(port.context(devices.client())) as held:
            assert self.last(held) == (401, b"RevocationUnknown")

    def last(self, held: ssl.SSLSocket) -> tuple[int, bytes]:
        """The first answer that is not as before: its status and last word."""
        deadline = time.monotonic() + SECONDS
        answer = ask(held)
        while answer is not None and answer.status == 200 and time.monotonic() < deadline:
            answer = ask(held)
        assert answer is not None
        return answer.status, answer.body.split()[-1]

    def test_requests_that_came_together_are_not_answered_either(
        self, port: Port, devices: Authority
    ) -> None:
        client = devices.client()
        with port.connect(port.context(client)) as held:
            assert status(held) == 200
            with port.replaced():
                port.files.set(crl=devices.revocations(client))
            held.sendall(b"GET /version?device=intruder HTTP/1.1\r\n\r\n" * 3)
            raw = b""
            while part := held.recv(65536):
                raw += part
        assert raw.count(b"HTTP/1.1 401") == 1
        assert raw.count(b"HTTP/1.1") == 1
        keys = port.served.call(lambda: list(port.served.server.devices.keys()))
        assert ("home", "intruder") not in keys


class TestFilesThatCannotBeUsed:
    """The ones before stay in use; what is mended is used."""

    @pytest.mark.parametrize(
        ("file", "spoil"),
        [
            ("client_ca", lambda content: content[: len(content) // 2]),
            ("client_ca", lambda content: content + content[: len(content) // 2]),
            ("client_ca", lambda _: b""),
            ("crl", lambda content: content[: len(content) // 2]),
            ("crl", lambda _: b""),
            ("crl", lambda content: content.replace(b"M", b"N")),
            ("certificate", lambda content: content[: len(content) // 2]),
            ("key", lambda content: content[: len(content) // 2]),
            ("key", lambda _: b""),
        ],
    )
    def test_half_written(
        self, port: Port, devices: Authority, file: str, spoil: Callable[[bytes], bytes]
    ) -> None:
        whole = port.files.path(file).read_bytes()
        self.check(port, devices, lambda: port.files.path(file).write_bytes(spoil(whole)))
        with port.replaced():
            port.files.path(file).write_bytes(whole)
        assert port.metric("otaflux_tls_reload_failing", port="device") == 0

    @pytest.mark.parametrize("file", ["certificate", "key", "client_ca", "crl"])
    def test_gone(self, port: Port, devices: Authority, file: str) -> None:
        self.check(port, devices, port.files.path(file).unlink)

    def test_a_certificate_before_its_key(
        self, port: Port, servers: Authority, devices: Authority
    ) -> None:
        fresh = servers.server()
        self.check(port, devices, lambda: port.files.set(certificate=fresh.pem))
        with port.replaced():
            port.files.set(key=fresh.key_pem)
        with port.connect(port.context(devices.client())) as connection:
            assert int(serial(connection), 16) == fresh.certificate.serial_number

    def test_a_delta_list(self, port: Port, devices: Authority, files: Files) -> None:
        from tests.server.tls.lists import delta

        self.check(port, devices, lambda: files.set(crl=delta(devices)))

    def check(self, port: Port, devices: Authority, spoil: Callable[[], object]) -> None:
        """Old connections and new ones go on as before; strangers do not get in."""
        context = port.context(devices.client())
        with port.connect(context) as held:
            assert status(held) == 200
            before = serial(held)
            spoil()
            port.keeps()
            assert status(held) == 200
        with port.connect(context) as fresh:
            assert (status(fresh), serial(fresh)) == (200, before)
        assert "ALERT" in alert_of(port, port.context(Authority("strangers").client()))
        assert "ALERT" in alert_of(port, port.context())


class TestSessions:
    """None is resumed past a change of what makes a client accepted."""

    @pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def version(self, request: pytest.FixtureRequest) -> ssl.TLSVersion:
        found: ssl.TLSVersion = request.param
        return found

    def begin(
        self, port: Port, client: Issued, version: ssl.TLSVersion
    ) -> tuple[ssl.SSLContext, ssl.SSLSession]:
        """A client with a session that can be resumed: it is, once."""
        context = port.context(client)
        context.minimum_version = context.maximum_version = version
        session = None
        for _ in range(2):
            with port.connect(context, session) as connection:
                assert connection.session_reused is (session is not None)
                assert status(connection) == 200
                session = ended(connection)
        assert session is not None
        return context, session

    def test_an_authority_that_is_removed(
        self, port: Port, devices: Authority, version: ssl.TLSVersion
    ) -> None:
        context, session = self.begin(port, devices.client(), version)
        others = Authority("others")
        with port.replaced():
            port.files.set(client_ca=others.pem, crl=others.revocations())
        assert alert_of(port, context, session) == "TLSV1_ALERT_UNKNOWN_CA"

    def test_a_certificate_that_is_revoked(
        self, port: Port, devices: Authority, version: ssl.TLSVersion
    ) -> None:
        client = devices.client()
        context, session = self.begin(port, client, version)
        with port.replaced():
            port.files.set(crl=devices.revocations(client))
        assert alert_of(port, context, session) == "SSLV3_ALERT_CERTIFICATE_REVOKED"

    def test_whatever_changes(
        self, port: Port, servers: Authority, devices: Authority, version: ssl.TLSVersion
    ) -> None:
        context, session = self.begin(port, devices.client(), version)
        with port.replaced():
            port.files.serve(servers.server())
        with port.connect(context, session) as connection:
            assert not connection.session_reused
            assert status(connection) == 200

    def test_a_certificate_that_expires(
        self, port: Port, devices: Authority, version: ssl.TLSVersion
    ) -> None:
        context, begun = self.begin(port, devices.client(until=SOON), version)
        session: ssl.SSLSession | None = begun
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with port.connect(context, session) as connection:
                assert connection.session_reused  # the handshake does not look at certificates
                answer = ask(connection)
                assert answer is not None
                session = ended(connection)
            if answer.status != 200:
                break
        assert answer is not None
        assert (answer.status, answer.body.split()[-1]) == (401, b"Expired")

    def test_of_a_chain(self, port: Port, devices: Authority, version: ssl.TLSVersion) -> None:
        below = Authority("below", devices)
        with port.replaced():
            port.files.set(crl=devices.revocations() + below.revocations())
        self.begin(port, below.client(), version)


def test_the_application_is_told_of_the_certificate(
    port: Port, devices: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes: list[dict[str, Any]] = []
    app = port.served.server.device_app
    original = app.__class__.__call__

    async def look(self: object, scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        await original(app, scope, receive, send)

    monkeypatch.setattr(app.__class__, "__call__", look)
    client = Authority("below", devices)
    issued = client.client()
    with port.replaced():
        port.files.set(crl=devices.revocations() + client.revocations())
    body = json.dumps({"device": "kitchen-1"}).encode()
    request = b"POST /api/v1/poll HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with port.connect(port.context(issued)) as connection:
        for _ in range(2):
            ask(connection, request)
        cipher = connection.cipher()
    told = [scope["extensions"]["tls"] for scope in scopes]
    assert told[0] is told[1]
    assert "".join(told[0]["client_cert_chain"]).encode() == issued.pem
    assert told[0]["client_cert_name"] == "CN=kitchen-1"
    assert told[0]["tls_version"] == 0x0304
    assert cipher is not None
    assert told[0]["cipher_suite"] == {"TLS_AES_256_GCM_SHA384": 0x1302}[cipher[0]]
    assert scopes[0]["scheme"] == "https"
