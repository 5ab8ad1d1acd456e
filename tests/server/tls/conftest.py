"""An authority of clients and one of servers, and the files of a server's device port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from otaflux_server.tls import ports
from tests.server.tls.authorities import Authority
from tests.server.tls.ports import Files, Port, secured


@pytest.fixture(scope="session")
def servers() -> Authority:
    """Issues servers' certificates."""
    return Authority("servers")


@pytest.fixture(scope="session")
def devices() -> Authority:
    """Issues devices' certificates."""
    return Authority("devices")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at so often that nobody waits."""
    monkeypatch.setattr(ports, "LOOK_SECONDS", 0.05)


@pytest.fixture
def files(tmp_path: Path, servers: Authority, devices: Authority) -> Files:
    """A certificate with its key, an authority of clients and its empty list."""
    made = Files(tmp_path / "tls")
    made.serve(servers.server())
    made.set(client_ca=devices.pem, crl=devices.revocations())
    return made


@pytest.fixture(params=["uvloop", "asyncio"])
def port(
    request: pytest.FixtureRequest, tmp_path: Path, files: Files, servers: Authority
) -> Iterator[Port]:
    """A server that has them."""
    with secured(tmp_path, files, servers, loop=request.param) as made:
        yield made
