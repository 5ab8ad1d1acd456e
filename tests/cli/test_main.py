"""The command line itself: quick help, completion, every command documented by example."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.commands import otaflux

COMMANDS = [
    ("demo",),
    ("simulate",),
    ("standalone",),
    ("rollouts",),
    ("explain",),
    ("preview",),
    ("devices",),
    ("device", "token", "create"),
    ("device", "token", "list"),
    ("device", "token", "revoke"),
    ("device", "cert", "ca", "create"),
    ("device", "cert", "create"),
    ("device", "cert", "list"),
    ("device", "cert", "revoke"),
    ("device", "cert", "crl"),
    ("db", "backup"),
    ("db", "restore"),
    ("db", "mark-restored"),
    ("firmware", "add"),
    ("firmware", "sample"),
]
HEAVY = {
    *("httpx", "kopf", "kubernetes", "fastapi", "uvicorn", "uvloop", "sqlalchemy"),
    *("pydantic", "yaml", "watchfiles", "cryptography"),
}


def test_the_version_is_that_of_the_distribution() -> None:
    assert otaflux("--version").stdout.strip() == metadata.version("otaflux")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_examples(command: tuple[str, ...]) -> None:
    ended = otaflux(*command, "--help")
    assert ended.returncode == 0
    assert "Examples" in ended.stdout
    assert f"otaflux {' '.join(command)}" in ended.stdout


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import json, sys\n"
        "from otaflux_cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps([name for name in sys.modules if '.' not in name]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(ended.stdout.splitlines()[-1]))
    assert not loaded & HEAVY


def test_a_shell_can_complete_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "otaflux_cli.main", "--show-completion", "bash"],
        # What runs the tests need be no shell.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "complete" in ended.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("otaflux expl", ["explain"]),
        ("otaflux db re", ["restore"]),
        ("otaflux devices --sta", ["--state"]),
        ("otaflux devices --state Up", ["Updated"]),
        ("otaflux devices --reason Ring", ["RingClosed"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(words: str, completed: list[str]) -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("otaflux")],
        env={
            **os.environ,
            "_OTAFLUX_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.split() == completed


def test_an_unknown_command_is_wrong_usage() -> None:
    ended = otaflux("frobnicate")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
