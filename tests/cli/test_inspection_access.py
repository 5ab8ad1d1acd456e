"""`explain`, `preview` and `devices` where the internal API wants a token, or is on TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from otaflux_cli.control_plane.certificates import ServerCertificate, write_server_certificate
from tests.cli.answering_servers import answering_server
from tests.cli.commands import otaflux_async
from tests.cli.commands import otaflux_here as otaflux
from tests.server.fleets import Served, serving, settings

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return write_server_certificate(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text(TOKEN)
    return made


@pytest.fixture
def served(tmp_path: Path, certificate: ServerCertificate, file: Path) -> Iterator[Served]:
    internal = {
        "authentication": "Token",
        "token_file": str(file),
        "tls": {"certificate": str(certificate.certificate), "key": str(certificate.key)},
    }
    with serving(settings(tmp_path / "data", internal=internal)) as made:
        yield made


async def test_by_options(served: Served, certificate: ServerCertificate, file: Path) -> None:
    ended = await otaflux_async(
        *("devices", "--server", served.server.internal_url),
        *("--server-token-file", str(file), "--server-ca", str(certificate.authority)),
    )
    assert (ended.returncode, ended.stderr.strip()) == (0, "No device was heard of yet.")


async def test_by_environment(
    served: Served,
    certificate: ServerCertificate,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTAFLUX_SERVER_URL", served.server.internal_url)
    monkeypatch.setenv("OTAFLUX_SERVER_TOKEN_FILE", str(file))
    monkeypatch.setenv("OTAFLUX_SERVER_CA", str(certificate.authority))
    assert (await otaflux_async("devices")).returncode == 0


async def test_without_a_token_it_says_how_to_make_one(
    served: Served, certificate: ServerCertificate
) -> None:
    ended = await otaflux_async(
        *("devices", "--server", served.server.internal_url),
        *("--server-ca", str(certificate.authority)),
    )
    assert ended.returncode == 1
    assert "does not let you in: a token is wanted" in ended.stderr
    assert "kubectl create token" in ended.stderr


async def test_a_certificate_that_is_not_trusted_is_said(served: Served, file: Path) -> None:
    ended = await otaflux_async(
        *("devices", "--server", served.server.internal_url, "--server-token-file", str(file))
    )
    assert ended.returncode == 1
    assert "--server-ca" in ended.stderr
    assert TOKEN not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "does not let you in: not you"), (503, "cannot let you in now: not you")],
)
def test_what_it_says(status: int, told: str) -> None:
    with answering_server() as server:
        server.status, server.body = status, b'{"detail": "not you"}'
        ended = otaflux("devices", "--server", server.url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr


@pytest.mark.parametrize("option", ["--server-token-file", "--server-ca"])
@pytest.mark.parametrize("content", [None, "", "no\ntoken"])
def test_files_that_cannot_be_used(tmp_path: Path, option: str, content: str | None) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    ended = otaflux("devices", "--server", "http://127.0.0.1:9", option, str(file))
    assert ended.returncode == 2
    assert f"{option} {file}" in ended.stderr
    assert "Traceback" not in ended.stderr
