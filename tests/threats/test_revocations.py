"""Threats to TLS: a device whose certificate was taken back, or whose authority was.

Each attack runs with its mitigation, and fails, and without, and succeeds.
"""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from otaflux_server.settings import TlsSettings
from otaflux_server.tls import contexts, ports
from otaflux_server.tls.authorities import ClientAuthorities
from otaflux_server.tls.connections import SecureConnection
from otaflux_server.tls.generations import Generation, load
from tests.server.tls.authorities import DAY, Authority
from tests.server.tls.ports import Files, Port, ask, secured

pytestmark = pytest.mark.parametrize("mitigated", [True, False])

SERVERS, DEVICES = Authority("servers"), Authority("devices")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path / "tls")
    made.serve(SERVERS.server())
    made.set(client_ca=DEVICES.pem, crl=DEVICES.revocations())
    return made


@pytest.fixture
def port(
    mitigated: bool, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Port]:
    monkeypatch.setattr(ports, "LOOK_SECONDS", 0.05)
    with secured(tmp_path, files, SERVERS) as made:
        yield made


def status(port: Port, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> int:
    """What a new connection's poll is answered with; 0: nothing, by an alert."""
    try:
        with port.connect(context, session) as connection:
            return polled(connection)
    except ssl.SSLError:
        return 0


def polled(connection: ssl.SSLSocket) -> int:
    answer = ask(connection)
    return 0 if answer is None else answer.status


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecureConnection, "refusal", lambda _: None)


@pytest.mark.parametrize("reason", ["Revoked", "Expired"])
def test_a_certificate_that_was_taken_back(
    mitigated: bool, reason: str, port: Port, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both OpenSSL, in the handshake, and the check at each request refuse it."""
    if not mitigated:
        accept_all(monkeypatch)
        made = contexts.ServerContext.__init__

        def lax(context: contexts.ServerContext, settings: TlsSettings) -> None:
            made(context, settings.model_copy(update={"client_ca": None, "crl": None}))

        monkeypatch.setattr(contexts.ServerContext, "__init__", lax)
    revoked = DEVICES.client()
    expired = DEVICES.client(since=-2 * DAY, until=-DAY)
    with port.replaced():
        files.set(crl=DEVICES.revocations(revoked))
    stolen = port.context(revoked if reason == "Revoked" else expired)
    assert status(port, stolen) == (0 if mitigated else 200)
    assert port.refused(reason) == mitigated


def test_a_connection_that_is_open_when_it_is(
    mitigated: bool, port: Port, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mitigated:
        accept_all(monkeypatch)
    stolen = DEVICES.client()
    with port.connect(port.context(stolen)) as connection:
        assert polled(connection) == 200
        with port.replaced():
            files.set(crl=DEVICES.revocations(stolen))
        assert polled(connection) == (401 if mitigated else 200)


def test_a_session_from_before_an_authority_was_removed(
    mitigated: bool, port: Port, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed handshake shows no certificate, so that OpenSSL checks none."""
    if not mitigated:
        accept_all(monkeypatch)
        kept: list[contexts.ServerContext] = []

        def same(settings: TlsSettings) -> Generation:
            found = load(settings)
            kept.append(found.context)
            return replace(found, context=kept[0])

        monkeypatch.setattr(ports, "load", same)
        with port.replaced():  # by the context that stays
            files.set(crl=DEVICES.revocations())
    context = port.context(DEVICES.client())
    with port.connect(context) as connection:
        assert polled(connection) == 200
        session = connection.session
        with contextlib.suppress(OSError):
            connection.unwrap()
    others = Authority("others")
    with port.replaced():
        files.set(client_ca=others.pem, crl=others.revocations())
    assert status(port, context, session) == (0 if mitigated else 200)


def test_one_of_an_authority_that_is_revoked(
    mitigated: bool, port: Port, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL looks at the list of the last authority alone."""
    if not mitigated:
        monkeypatch.setattr(ClientAuthorities, "accept", lambda *_: datetime.max.replace(year=9000))
    below = Authority("below", DEVICES)
    with port.replaced():
        files.set(crl=DEVICES.revocations(below.certificate) + below.revocations())
    assert status(port, port.context(below.client())) == (401 if mitigated else 200)
