"""Runs the `otaflux` command as a user does: a process of its own."""

import asyncio
import subprocess
import sys
from pathlib import Path


def otaflux(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The ended command; a minute is the most that it may take."""
    return subprocess.run(
        [sys.executable, "-m", "otaflux_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


async def otaflux_async(
    *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The same without blocking the event loop, on which a test's server may run."""
    return await asyncio.to_thread(lambda: otaflux(*arguments, cwd=cwd))
