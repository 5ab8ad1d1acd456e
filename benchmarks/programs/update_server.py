"""The update server with a fleet's policies in use: what `otaflux-server` runs, without a cluster.

python -m benchmarks.programs.update_server CORE FOLDER PORT INTERNAL_PORT DEVICES ROLLOUTS SIZE
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from benchmarks.fleets import NAMESPACE, Fleet, layout_source, publish
from benchmarks.machines import stay_on
from otaflux_server import logs
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import Settings


async def _run(folder: Path, port: int, internal: int, fleet: Fleet) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    layout = folder / "layout"
    settings = Settings(
        listen=f"127.0.0.1:{port}",
        internal_listen=f"127.0.0.1:{internal}",
        data_dir=folder / "server",
        default_namespace=NAMESPACE,
        shutdown_seconds=1,
    )
    logs.configure(settings)
    async with UpdateServer(settings, artifact_source=lambda _: layout_source(layout)) as server:
        await publish(fleet, server.policies, layout)
        await stop.wait()


def main() -> None:
    """Runs until SIGTERM."""
    core, folder, *numbers = sys.argv[1:]
    port, internal, devices, rollouts, size = map(int, numbers)
    stay_on(int(core))
    uvloop.run(_run(Path(folder), port, internal, Fleet(devices, rollouts, size)))


if __name__ == "__main__":
    main()
