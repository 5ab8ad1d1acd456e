"""What settings of identity are refused, and that one has to be chosen."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from otaflux_server.identities.choosing import IdentityUnset
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import IdentitySettings, Settings
from tests.server.fleets import settings


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "Anybody"}, "kind"),
        ({"kind": "Token"}, "needs tokens"),
        ({"kind": "ForwardedCertificate"}, "needs trusted_peers"),
        ({"trusted_peers": ["0.0.0.0/0"]}, "everybody"),
        ({"trusted_peers": ["::/0"]}, "everybody"),
        ({"trusted_peers": ["10.0.0.1/8"]}, "not a valid IPv4 network"),
        ({"certificate_pattern": "(.*)"}, "device"),
        ({"certificate_pattern": "("}, "regular expression"),
        ({"forwarded_headers": "Envoy"}, "forwarded_headers"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        IdentitySettings(**fields)


def test_a_server_wants_to_be_told_how_devices_prove_who_they_are(tmp_path: Path) -> None:
    with pytest.raises(IdentityUnset, match="OTAFLUX_IDENTITY__KIND"):
        UpdateServer(settings(tmp_path, identity={}))


async def test_the_program_says_what_to_set(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "otaflux_server.main",
        env=os.environ | {"OTAFLUX_DATA_DIR": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    for word in ("OTAFLUX_IDENTITY__KIND", "Certificate", "Token", "Open"):
        assert word in error.decode()
    assert "Traceback" not in error.decode()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "seconds"), [({"kind": "Open"}, 600), ({"kind": "Token", "tokens": "x"}, 0)]
)
def test_who_proves_who_it_is_is_no_scanner(fields: dict[str, Any], seconds: int) -> None:
    assert Settings(identity=fields).scan_seconds == seconds
