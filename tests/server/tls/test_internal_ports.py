"""The internal port on TLS: its own files, its own clients' authorities."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.fleets import Served, serving, settings
from tests.server.tls.authorities import Authority, Issued
from tests.server.tls.ports import Files

REPLACED = "otaflux_tls_files_replaced_total"


@pytest.fixture(params=["uvloop", "asyncio"])
def internal(request: pytest.FixtureRequest, tmp_path: Path, files: Files) -> Iterator[Served]:
    """A server whose internal port has TLS; its device port has none."""
    options = settings(
        tmp_path / "data", internal={"authentication": "None", "tls": files.settings}
    )
    with serving(options, loop=request.param) as served:
        yield served


def client_of(served: Served, files: Files, servers: Authority, client: Issued) -> httpx.Client:
    context = ssl.create_default_context(cadata=servers.pem.decode())
    context.load_cert_chain(*client.write(files.folder, "client"))
    return httpx.Client(base_url=served.server.internal_url, verify=context)


def value(served: Served, name: str, **labels: str) -> float:
    return served.server.metrics.registry.get_sample_value(name, labels) or 0.0


def test_who_has_a_certificate_is_answered(
    internal: Served, files: Files, servers: Authority, devices: Authority
) -> None:
    assert internal.server.internal_url.startswith("https://")
    assert internal.server.device_url.startswith("http://")
    with client_of(internal, files, servers, devices.client()) as client:
        assert client.get("/internal/v1/rollouts").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_who_has_none_is_not(internal: Served, files: Files, servers: Authority) -> None:
    context = ssl.create_default_context(cadata=servers.pem.decode())
    with (
        httpx.Client(base_url=internal.server.internal_url, verify=context) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("/healthz")
    labels = {"port": "internal", "reason": "NoCertificate"}
    assert value(internal, "otaflux_tls_refused_total", **labels) == 1


def test_who_is_revoked_is_dropped(
    internal: Served, files: Files, servers: Authority, devices: Authority
) -> None:
    revoked = devices.client()
    with client_of(internal, files, servers, revoked) as client:
        assert client.get("/internal/v1/rollouts").status_code == 200
        files.set(crl=devices.revocations(revoked))
        internal.wait(lambda: value(internal, REPLACED, port="internal") == 1)
        with pytest.raises(httpx.TransportError):
            client.get("/internal/v1/rollouts")
    labels = {"port": "internal", "reason": "Revoked"}
    assert value(internal, "otaflux_tls_refused_total", **labels) >= 1
