"""From nothing to an enrolled device, as docs/enrolment.md says, with a real server."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx

from otaflux_cli.control_plane.certificates import write_server_certificate
from tests.cli.commands import otaflux_async
from tests.e2e.installations import eventually
from tests.e2e.sites import Host, host


async def otaflux(*arguments: str | Path) -> str:
    ended = await otaflux_async("device", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


async def poll(
    client: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    device: str | None = None,
) -> int:
    """The status of the answer; 0: none came. `device`: who it says that it is."""
    said = {} if device is None else {"device": device}
    try:
        return (await client.post(f"{url}/api/v1/poll", json=said, headers=headers)).status_code
    except (httpx.TransportError, ssl.SSLError):  # an alert that comes late is the latter
        return 0


async def test_a_device_with_a_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    await otaflux("token", "create", "x", "-n", "default", "--device", "x", "--file", tokens)
    settings = {"OTAFLUX_IDENTITY__KIND": "Token", "OTAFLUX_IDENTITY__TOKENS": str(tokens)}
    async with (
        host(tmp_path, settings) as site,
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
    ):
        url = site.device_url
        assert await poll(client, url, device="kitchen-1") == 401
        create = ("token", "create", "k", "-n", "default", "--device", "kitchen-1")
        headers = {"Authorization": f"Bearer {await otaflux(*create, '--file', tokens)}"}
        await eventually(lambda: poll(client, url, headers), lambda status: status == 200)
        assert await poll(client, url, headers, device="kitchen-1") == 200
        assert await poll(client, url, headers, device="x") == 403
        await otaflux("token", "revoke", "k", "--file", tokens)
        await eventually(lambda: poll(client, url, headers), lambda status: status == 401)


async def test_a_device_with_a_certificate(tmp_path: Path) -> None:
    ca, server = tmp_path / "ca", write_server_certificate(tmp_path)
    await otaflux("cert", "ca", "create", "--ca", ca)
    for device in ("kitchen-1", "hall-1"):
        await otaflux("cert", "create", device, "-n", "default", "--ca", ca, "--out", tmp_path)
    settings = {
        "OTAFLUX_IDENTITY__KIND": "Certificate",
        "OTAFLUX_TLS__CERTIFICATE": str(server.certificate),
        "OTAFLUX_TLS__KEY": str(server.key),
        "OTAFLUX_TLS__CLIENT_CA": str(ca / "ca.crt"),
        "OTAFLUX_TLS__CRL": str(ca / "crl.pem"),
    }

    async def status(site: Host, holder: str, device: str | None = None) -> int:
        """Over a connection of its own, as a handshake is what is looked at."""
        context = ssl.create_default_context(cafile=str(server.authority))
        if holder:
            context.load_cert_chain(tmp_path / f"{holder}.crt", tmp_path / f"{holder}.key")
        async with httpx.AsyncClient(trust_env=False, timeout=10, verify=context) as client:
            return await poll(client, site.device_url.replace("http:", "https:"), device=device)

    async with host(tmp_path, settings) as site:
        assert await status(site, "") == 0
        assert await status(site, "kitchen-1") == 200
        assert await status(site, "kitchen-1", device="hall-1") == 403
        await otaflux("cert", "revoke", tmp_path / "kitchen-1.crt", "--ca", ca)
        await eventually(lambda: status(site, "kitchen-1"), lambda found: found == 0)
        assert await status(site, "hall-1") == 200
