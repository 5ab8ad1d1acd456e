"""What a server keeps of the clients that it shook hands with."""

import contextlib
import ssl

import pytest

from otaflux_server.settings import TlsSettings
from otaflux_server.tls.contexts import ServerContext
from tests.server.tls.authorities import Authority
from tests.server.tls.ports import Files


def shakes(server: ServerContext, client: ssl.SSLContext) -> bool:
    """Whether both sides do; what they hold is let go of, as when a connection ends."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(one, other, server_hostname="localhost"),
        server.wrap_bio(other, one, server_side=True),
    )
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    for side in sides:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.unwrap()
    return True


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("more", "kept"), [(0, 1), (60, 0)])
def test_one_session_of_a_client_and_none_of_a_large_chain(
    files: Files,
    servers: Authority,
    devices: Authority,
    version: ssl.TLSVersion,
    more: int,
    kept: int,
) -> None:
    server = ServerContext(TlsSettings(**files.settings))
    client = ssl.create_default_context(cadata=servers.pem.decode())
    client.minimum_version = client.maximum_version = version
    issued = devices.client()
    certificate, key = issued.write(files.folder, "client")
    certificate.write_bytes(issued.pem + devices.pem * more)
    client.load_cert_chain(certificate, key)
    assert shakes(server, client) is bool(kept)
    assert server.session_stats()["number"] == kept
