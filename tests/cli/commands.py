"""Runs the `otaflux` command as a user does: a process of its own."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from otaflux_cli.main import main


def otaflux(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The ended command; a minute is the most that it may take."""
    return subprocess.run(
        [sys.executable, "-m", "otaflux_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
    )


async def otaflux_async(
    *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The same without blocking the event loop, on which a test's server may run."""
    return await asyncio.to_thread(lambda: otaflux(*arguments, cwd=cwd))


def otaflux_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, in a tenth of the time: for what many cases are tried with."""
    told, remarks = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(remarks):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(
        list(map(str, arguments)), int(code or 0), told.getvalue(), remarks.getvalue()
    )
