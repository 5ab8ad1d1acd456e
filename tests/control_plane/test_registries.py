"""The registries that the registry client and the demo are tested on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from otaflux_cli.control_plane.certificates import write_server_certificate
from otaflux_cli.control_plane.processes import CommandFailed, StartFailed
from otaflux_cli.control_plane.registries import Oras, Registry

FIRMWARE = b"\xe9" + os.urandom(4096)
FILE = "firmware.bin:application/octet-stream"


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.bin"
    path.write_bytes(FIRMWARE)
    return path


async def test_firmware_survives_the_round_trip_and_a_restart(
    registry_program: Path, oras: Oras, firmware: Path, tmp_path: Path
) -> None:
    async with Registry(registry_program) as registry:
        reference = f"{registry.host}/firmware/kitchen:1.4.0"
        await oras("push", "--plain-http", reference, FILE, cwd=firmware.parent)
        host = registry.host
        await registry.stop()
        with pytest.raises(CommandFailed, match="refused"):
            await oras("pull", "--plain-http", reference)
        await registry.start()
        assert registry.host == host
        folder = registry.folder
        await oras("pull", "--plain-http", reference, "--output", str(tmp_path / "pulled"))
    assert (tmp_path / "pulled" / "firmware.bin").read_bytes() == FIRMWARE
    assert not folder.exists(), "a folder of its own goes with it"


async def test_the_shared_registry_takes_pushes(
    registry: Registry, oras: Oras, repository: str, firmware: Path
) -> None:
    reference = f"{registry.host}/{repository}:1.4.0"
    await oras("push", "--plain-http", reference, FILE, cwd=firmware.parent)
    manifest = json.loads(await oras("manifest", "fetch", "--plain-http", reference))
    assert [layer["size"] for layer in manifest["layers"]] == [len(FIRMWARE)]


async def test_basic_authentication(registry_program: Path, oras: Oras, firmware: Path) -> None:
    async with Registry(registry_program, users={"robot": "s3cret"}) as registry:
        reference = f"{registry.host}/firmware/kitchen:1.4.0"
        with pytest.raises(CommandFailed, match=r"401|basic credential not found"):
            await oras("push", "--plain-http", reference, FILE, cwd=firmware.parent)
        await oras(
            "login", "--plain-http", registry.host, "-u", "robot", "--password-stdin",
            input="s3cret",
        )  # fmt: skip
        await oras("push", "--plain-http", reference, FILE, cwd=firmware.parent)
        assert "s3cret" not in registry.log.read_text()


async def test_tls(registry_program: Path, oras: Oras, firmware: Path, tmp_path: Path) -> None:
    certificate = write_server_certificate(tmp_path)
    async with Registry(registry_program, certificate=certificate) as registry:
        assert registry.url.startswith("https://")
        reference = f"{registry.host}/firmware/kitchen:1.4.0"
        with pytest.raises(CommandFailed, match="unknown authority"):
            await oras("push", reference, FILE, cwd=firmware.parent)
        authority = str(certificate.authority)
        await oras("push", "--ca-file", authority, reference, FILE, cwd=firmware.parent)


async def test_configuration_of_ones_own_is_laid_over(
    registry_program: Path, tmp_path: Path
) -> None:
    bundle = write_server_certificate(tmp_path).authority
    token = {
        "realm": "http://127.0.0.1:9/token",
        "service": "registry",
        "issuer": "tests",
        "rootcertbundle": str(bundle),
    }
    async with Registry(registry_program, config={"auth": {"token": token}}) as registry:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{registry.url}/v2/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith(
            'Bearer realm="http://127.0.0.1:9/token",service="registry"'
        )


async def test_the_end_of_the_log_tells_why_a_start_failed(registry_program: Path) -> None:
    with pytest.raises(StartFailed, match=r"(?s)the end of its log.*no-such-driver"):
        async with Registry(registry_program, config={"auth": {"no-such-driver": {}}}):
            pytest.fail("it must not start")
