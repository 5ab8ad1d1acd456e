"""The update server with a fleet's policies in use: what `otaflux-server` runs, without a cluster.

python -m benchmarks.programs.update_server \
    CORE FOLDER PORT INTERNAL_PORT DEVICES ROLLOUTS SIZE CHANGE RECORDING

RECORDING is on, or off: then nothing of polls is remembered or written. Settings that the command
line does not give come from the environment. SIGUSR1: every policy changes. SIGUSR2: begins to
watch how long the event loop is kept; the next one ends that and writes what was seen to
FOLDER/stalls.json, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import uvloop

from benchmarks.fleets import NAMESPACE, Change, Fleet, Publication, layout_source
from benchmarks.machines import stay_on
from otaflux_server import logs
from otaflux_server.devices import DeviceRecord
from otaflux_server.evidence.recording import Recorder
from otaflux_server.fleet import Fleet as Devices
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import Settings
from otaflux_server.slices import seldom_collect

_TICK = 0.001


class Stalls:
    """How long the loop was kept from a timer that is due each millisecond.

    By the thread's own CPU time, which other processes on the core do not disturb.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._timer: asyncio.TimerHandle | None = None
        self._busy = self._since = 0.0

    def toggle(self) -> None:
        """Begins, or ends and writes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            seen = {"busy": self._busy * 1000}
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(seen))
            part.rename(self._file)
            return
        self._busy = 0.0
        self._wait()

    def _wait(self) -> None:
        self._since = time.thread_time()
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._busy = max(self._busy, time.thread_time() - self._since)
        self._wait()


async def _run(folder: Path, port: int, internal: int, fleet: Fleet, change: Change) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR2, Stalls(folder / "stalls.json").toggle)
    layout = folder / "layout"
    settings = Settings(
        listen=f"127.0.0.1:{port}",
        internal_listen=f"127.0.0.1:{internal}",
        data_dir=folder / "server",
        default_namespace=NAMESPACE,
        shutdown_seconds=1,
    )
    logs.configure(settings)
    seldom_collect()  # as `otaflux-server` does
    async with UpdateServer(settings, artifact_source=lambda _: layout_source(layout)) as server:
        publication = Publication(fleet, server.policies, layout, change)
        await publication.publish()
        seldom_collect()
        loop.add_signal_handler(signal.SIGUSR1, publication.change)
        await stop.wait()


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Polls leave no trace, but for what decisions need."""
    with (
        patch.object(Devices, "polled", _not_noted),
        patch.object(Recorder, "record", _nothing),
        patch.object(Recorder, "contact", _nothing),
    ):
        yield


def _not_noted(_: Devices, record: DeviceRecord, *__: object, **___: object) -> None:
    record.due = float("inf")  # nothing of the next poll is news


def _nothing(*_: object, **__: object) -> None:
    pass


def main() -> None:
    """Runs until SIGTERM."""
    core, folder, *numbers, change, recording = sys.argv[1:]
    port, internal, devices, rollouts, size = map(int, numbers)
    stay_on(int(core))
    fleet = Fleet(devices, rollouts, size)
    with nullcontext() if recording == "on" else _unrecorded():
        uvloop.run(_run(Path(folder), port, internal, fleet, Change(change)))


if __name__ == "__main__":
    main()
