"""The program `otaflux-operator`: what it says to someone who starts it the first time."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from otaflux_operator.settings import Settings


async def operator(*arguments: str, **environment: str) -> tuple[int | None, str]:
    """Exit status and all that was printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "otaflux_operator.main",
        *arguments,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output.decode()


async def test_help_names_every_setting_and_examples() -> None:
    status, text = await operator("--help")
    assert status == 0
    assert "examples:" in text
    for name in Settings.model_fields:
        assert f"OTAFLUX_{name.upper()}" in text


async def test_without_a_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    status, text = await operator(HOME=str(tmp_path), OTAFLUX_SERVER_URL="http://127.0.0.1:9")
    assert status == 1
    assert "set OTAFLUX_KUBECONFIG" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("value", ["home", "{}"])
async def test_a_wrong_setting_is_named(value: str) -> None:
    status, text = await operator(OTAFLUX_WATCH_NAMESPACES=value)
    assert status == 2
    assert "watch_namespaces" in text.lower()
    assert "Traceback" not in text
