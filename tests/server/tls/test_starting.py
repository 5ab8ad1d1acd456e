"""Settings and files that a server does not start with: it says what to do instead."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from pydantic import ValidationError

from otaflux_server.serving import UpdateServer
from otaflux_server.tls.generations import TlsUnusable
from tests.server.fleets import settings
from tests.server.tls.authorities import Authority, unreadable
from tests.server.tls.ports import Files


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda files, _: files.path("key").unlink(), "key .*key.pem cannot be read"),
        (lambda files, _: files.set(key=b"x"), "holds no private key"),
        (lambda files, _: files.set(certificate=b"x"), "holds no PEM block CERTIFICATE"),
        (lambda files, _: files.set(crl=b"x"), "holds no PEM block X509 CRL"),
        (
            lambda files, other: files.set(client_ca=unreadable(other.certificate)),
            "client_ca .* holds something that is no certificate",
        ),
        (lambda files, other: files.set(key=other.server().key_pem), "is not that of certificate"),
        (lambda files, other: files.set(key=encrypted(other)), "is encrypted"),
    ],
)
async def test_files(
    tmp_path: Path,
    files: Files,
    servers: Authority,
    spoil: Callable[[Files, Authority], object],
    why: str,
) -> None:
    options = settings(tmp_path / "data", tls=files.settings)
    spoil(files, servers)
    with pytest.raises(TlsUnusable, match=why):
        async with UpdateServer(options):
            pass


def encrypted(authority: Authority) -> bytes:
    return authority.server().key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tls": {"certificate": "a"}}, "go together"),
        ({"tls": {"client_ca": "a"}}, "needs certificate and key"),
        ({"tls": {"certificate": "a", "key": "b", "crl": "c"}}, "needs client_ca"),
        ({"internal": {"authentication": "Token"}}, "needs token_file"),
        ({"identity": {"kind": "Certificate"}}, "OTAFLUX_TLS__CLIENT_CA"),
        (
            {"identity": {"kind": "Certificate"}, "tls": {"certificate": "a", "key": "b"}},
            "OTAFLUX_TLS__CLIENT_CA",
        ),
    ],
)
def test_settings(tmp_path: Path, fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings(tmp_path, **fields)


def test_the_program_says_so(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "otaflux_server.main"],
        env={"OTAFLUX_DATA_DIR": str(tmp_path), "OTAFLUX_IDENTITY__KIND": "Certificate"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert "OTAFLUX_: " not in ended.stderr
    assert "set OTAFLUX_TLS__CLIENT_CA" in ended.stderr
    assert "Traceback" not in ended.stderr
