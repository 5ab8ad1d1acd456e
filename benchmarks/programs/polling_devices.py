"""Devices that poll, each on a connection of its own, and note when they are told a new version.

python -m benchmarks.programs.polling_devices \
    CORE PORT INTERNAL_PORT SERVER_PID DEVICES VERSION SECONDS

Every device polls once; then SIGUSR1 has the server change its policies. As soon as the internal
API tells another revision, each device polls once within the next SECONDS, evenly spread (0: all
at once), and again and again until it is told VERSION. Prints one line of JSON: how long it took,
from the device's first poll after the change, for the median and the last device, in
milliseconds, and how many had to ask more than once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from functools import partial
from statistics import median
from typing import cast

import httpx
import uvloop

from benchmarks.fleets import NAMESPACE, STABLE, Fleet
from benchmarks.machines import stay_on

_CEILING = 30.0
_LOOK = 0.002
_AGAIN = 0.01


class Device(asyncio.Protocol):
    """One device: sends a request, awaits an answer, waits a little if it is not the wanted one."""

    def __init__(self, device: str, wanted: bytes) -> None:
        path = f"/version?device={device}&version={STABLE}"
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self._wanted = b"\r\n\r\n" + wanted + b"\n"
        self._transport: asyncio.Transport | None = None
        self._first_sent = 0.0
        self._patient = True
        self.seconds = 0.0
        self.polls = 0
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's by class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            why = ConnectionError("the server closed the connection")
            why.__cause__ = exc
            self.answer.set_exception(why)

    def poll(self, *, until_told: bool) -> None:
        """Sends the first request; `answer` is done with the answer, or the wanted one."""
        self.answer = asyncio.get_running_loop().create_future()
        self._patient, self.polls = not until_told, 0
        self._first_sent = time.perf_counter()
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self.polls += 1
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._patient or self._wanted in data:
            self.seconds = time.perf_counter() - self._first_sent
            if not self.answer.done():
                self.answer.set_result(None)
        else:
            asyncio.get_running_loop().call_later(_AGAIN, self._send)


async def _run(
    port: int, internal: int, pid: int, count: int, version: str, seconds: float
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    devices = [Device(device, version.encode()) for device in Fleet(count, 1).device_ids]
    for made in devices:
        await loop.create_connection(partial(_same, made), "127.0.0.1", port)
    for made in devices:
        made.poll(until_told=False)
    await asyncio.wait_for(asyncio.gather(*(made.answer for made in devices)), _CEILING)
    await _change(internal, pid)
    opened = time.perf_counter()
    for number, made in enumerate(devices):
        if seconds:
            await asyncio.sleep(opened + seconds * number / count - time.perf_counter())
        made.poll(until_told=True)
    await asyncio.wait_for(asyncio.gather(*(made.answer for made in devices)), _CEILING)
    taken = [made.seconds * 1000 for made in devices]
    return {
        "median": median(taken),
        "last": max(taken),
        "again": sum(made.polls > 1 for made in devices),
    }


def _same(device: Device) -> Device:
    return device


async def _change(internal: int, pid: int) -> None:
    url = f"http://127.0.0.1:{internal}/internal/v1/rollouts/{NAMESPACE}/product-00"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=_CEILING) as client,
        asyncio.timeout(_CEILING),
    ):
        before = (await client.get(url)).json()["revision"]
        os.kill(pid, signal.SIGUSR1)
        while True:
            if (await client.get(url)).json()["revision"] != before:
                return
            await asyncio.sleep(_LOOK)


def main() -> None:
    """Runs once."""
    core, port, internal, pid, devices, version, seconds = sys.argv[1:]
    stay_on(int(core))
    found = uvloop.run(
        _run(int(port), int(internal), int(pid), int(devices), version, float(seconds))
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
