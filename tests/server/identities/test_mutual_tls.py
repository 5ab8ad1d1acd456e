"""Real certificates on real connections: to the server itself, and to an nginx before it."""

import os
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from otaflux_cli.control_plane.certificates import ServerCertificate, write_server_certificate
from otaflux_cli.control_plane.processes import Server, free_port
from tests.fixtures.servers import missing
from tests.server.fleets import NAMESPACE, firmware, serving, settings, version_body
from tests.server.identities.authorities import Issued, authority, issue, of_device, uri
from tests.server.identities.ways import DEVICE, OTHER_NAMESPACE, VICTIM, WAYS, serving_way

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)
PROXY = "127.0.0.2"
"""From where nginx connects; nobody else does."""

_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {own.certificate};
    ssl_certificate_key {own.key};
    ssl_client_certificate {clients};
    ssl_verify_client optional_no_ca;
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_bind {address};
      proxy_set_header Host $http_host;
      proxy_set_header ssl-client-verify $ssl_client_verify;
      proxy_set_header ssl-client-cert $ssl_client_escaped_cert;
    }}
  }}
}}
"""


@contextmanager
def client(
    url: str, own: ServerCertificate, issued: Issued | None = None
) -> Iterator[httpx.Client]:
    """A device with this certificate, on one connection."""
    context = ssl.create_default_context(cafile=own.authority)
    if issued is not None:
        file = own.key.with_name(f"client-{issued.certificate.serial_number:x}.pem")
        file.write_text(issued.pem + issued.key_pem)
        context.load_cert_chain(file)
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30) as found:
        yield found


def a_device_gets_its_own(device: httpx.Client) -> None:
    for _ in range(2):
        assert device.get("/version").content == BODY
    assert device.get("/version", params={"device": VICTIM}).status_code == 403
    assert device.get(f"/t/{OTHER_NAMESPACE}/version").status_code == 403
    update = device.post("/api/v1/poll", json={}).json()["update"]
    assert update["url"].startswith("https://")
    assert device.get(update["url"]).content == CONTENT
    assert device.get("/firmware").content == CONTENT


def test_the_certificate_of_a_connection_is_who_asks(tmp_path: Path) -> None:
    (way,) = (way for way in WAYS if way.name == "Certificate")
    with serving_way(way, tmp_path) as served:
        served.offer("1.4.0", CONTENT)
        own = ServerCertificate(*(tmp_path / f"server{end}" for end in (".crt", ".key", "-ca.crt")))
        url = served.server.device_url
        with client(url, own, of_device(NAMESPACE, DEVICE)) as device:
            a_device_gets_its_own(device)
        assert served.call(served.server.devices.keys) == [(NAMESPACE, DEVICE)]
        with client(url, own, issue(uris=("spiffe://x/y",))) as device:
            assert device.get("/version").status_code == 401
        with client(url, own) as device, pytest.raises(httpx.TransportError):
            device.get("/version")


def nginx_program() -> str:
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    return program or missing("nginx is not installed: scripts/system-packages")


@asynccontextmanager
async def nginx(
    folder: Path, own: ServerCertificate, port: int, upstream: str
) -> AsyncIterator[str]:
    """The URL of an nginx that ends mutual TLS before the server."""
    clients = folder / "clients.pem"
    clients.write_text(authority().pem)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            folder=folder, port=port, own=own, clients=clients, upstream=upstream, address=PROXY
        )
    )
    command = [nginx_program(), "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    server = Server("nginx", command, folder / "nginx.log")
    url = f"https://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            with client(url, own) as nobody:
                return nobody.get("/version").status_code == 401
        except httpx.TransportError:
            return False

    await server.start(answers)
    try:
        yield url
    finally:
        await server.stop()


async def test_nginx_forwards_the_certificate(tmp_path: Path) -> None:
    nginx_program()
    port = free_port()
    identity = {
        "kind": "ForwardedCertificate",
        "forwarded_header": "IngressNginx",
        "trusted_peers": [f"{PROXY}/32"],
    }
    public = f"https://127.0.0.1:{port}"
    options = settings(tmp_path / "data", identity=identity, public_url=public)
    own = write_server_certificate(tmp_path, prefix="nginx")
    with serving(options) as served:
        served.offer("1.4.0", CONTENT)
        async with nginx(tmp_path, own, port, served.server.device_url) as url:
            with client(url, own, of_device(NAMESPACE, DEVICE)) as device:
                a_device_gets_its_own(device)
                forged = {"ssl-client-cert": of_device(NAMESPACE, VICTIM).quoted}
                assert device.get("/version", headers=forged).status_code == 200
            assert served.call(served.server.devices.keys) == [(NAMESPACE, DEVICE)]
            forged["ssl-client-verify"] = "SUCCESS"
            for issued, status in nobodys():
                with client(url, own, issued) as device:
                    assert device.get("/version", headers=forged).status_code == status
        past_the_proxy = served.get("/version", *map(": ".join, forged.items()))
        assert past_the_proxy.status == 401
        assert served.call(served.server.devices.keys) == [(NAMESPACE, DEVICE)]


def nobodys() -> Iterator[tuple[Issued | None, int]]:
    """Certificates that nginx does not verify, and the status; 400 is nginx' own."""
    day = timedelta(days=1)
    yield None, 401
    yield issue(uris=(uri(NAMESPACE, VICTIM),), ca=True), 401
    yield issue(uris=(uri(NAMESPACE, VICTIM),), begins=-2 * day, ends=-day), 400
