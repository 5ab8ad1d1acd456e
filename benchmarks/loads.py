"""wrk: requests as fast as a server answers them, each of a list in turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import NotMeasured
from benchmarks.machines import cores, cpu_seconds, on_core
from benchmarks.servers import Running
from otaflux_cli.control_plane.processes import run_command

CONNECTIONS = 128
"""Enough that the server never waits for the load."""

_SCRIPT = Path(__file__).parent / "cycle.lua"


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: complete responses, bytes with heads, latency; and the server's CPU time."""

    requests: int
    seconds: float
    received: int
    p99_milliseconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Requests per second of the server's CPU time: other processes disturb it less."""
        return self.requests / self.cpu_seconds

    @property
    def throughput(self) -> float:
        """MB (10⁶ bytes) per second."""
        return self.received / self.seconds / 1e6


def require_wrk() -> str:
    """The program. Raises NotMeasured where it is missing."""
    found = shutil.which("wrk")
    if found is None:
        raise NotMeasured("wrk is not installed: scripts/system-packages")
    return found


async def wrk(
    server: Running,
    paths: Sequence[str],
    folder: Path,
    *,
    connections: int,
    seconds: int,
    close: bool = False,
) -> Load:
    """Loads the server from the other core with GETs of the paths, one after the other.

    `close`: the client asks for a connection for each request.

    Raises:
        NotMeasured: wrk is missing, or a response was not 200.
    """
    listed = folder / "paths.txt"
    listed.write_text("\n".join(paths) + "\n")
    before = cpu_seconds(server.pid)
    with on_core(cores()[1]):
        output = await run_command(
            [
                require_wrk(), "--threads=1", f"--connections={connections}",
                f"--duration={seconds}s", "--timeout=10s", f"--script={_SCRIPT}",
                *(["--header=Connection: close"] if close else []),
                server.url, "--", str(listed),
            ],
            timeout=seconds + 30,
        )  # fmt: skip
    used = cpu_seconds(server.pid) - before
    seen = json.loads(output.splitlines()[-1])
    if seen["wrong"] or not seen["requests"]:
        raise NotMeasured(
            f"{seen['wrong']} of {seen['requests']} answers to {paths[0]} and the like failed"
        )
    return Load(
        requests=seen["requests"],
        seconds=seen["microseconds"] / 1e6,
        received=seen["bytes"],
        p99_milliseconds=seen["p99"] / 1000,
        cpu_seconds=max(used, 0.01),
    )


async def each_once(server: Running, paths: Sequence[str], folder: Path) -> None:
    """GETs every path at least once, many at one time."""
    asked, seconds = 0, 1 + len(paths) // 20_000
    while asked < len(paths):
        # What was under way at the end was not counted, and the order is not kept exactly.
        start = max(0, asked - 2 * CONNECTIONS)
        # The first one is taken by wrk's own check of the script, and not sent.
        some = [paths[start], *paths[start:]]
        load = await wrk(server, some, folder, connections=CONNECTIONS, seconds=seconds)
        asked = start + load.requests
