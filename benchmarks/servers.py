"""Starts what is measured: update server, bare uvicorn, nginx, each on the core of its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.figures import NotMeasured
from benchmarks.fleets import Change, Fleet
from benchmarks.machines import cores, on_core
from otaflux_cli.control_plane.processes import Server, free_port
from tests.fixtures.databases import Postgres, find_postgres

ROOT = Path(__file__).parents[1]
"""Where programs of `benchmarks` find it."""

_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"

_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on 127.0.0.1; `internal`: the update server's internal API."""

    url: str
    pid: int
    internal: str = ""


@asynccontextmanager
async def update_server(
    fleet: Fleet,
    folder: Path,
    *,
    change: Change = Change.WIDEN,
    recording: bool = True,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Running]:
    """The update server that serves the fleet, once all of its images are stored.

    They lie in `stored_files(folder)`, named by the hexadecimal part of their digest. SIGUSR1 has
    it make the change; without `recording` nothing is remembered of polls; `environment` holds
    further settings.
    """
    port, internal = free_port(), free_port()
    stored = f'otaflux_artifacts{{state="Stored"}} {2.0 * fleet.rollouts}'
    server = _program(
        "update_server", folder,
        [
            cores()[0], folder, port, internal, fleet.devices, fleet.rollouts, fleet.size, change,
            "on" if recording else "off",
        ],
        {
            "OTAFLUX_IDENTITY__KIND": "Open",
            "OTAFLUX_INTERNAL__AUTHENTICATION": "None",
            # A few clients stand for many devices: the limits are asked, and never reached.
            "OTAFLUX_CONNECTIONS__REQUESTS_PER_SECOND": "1000000",
            "OTAFLUX_CONNECTIONS__MAX_DOWNLOADS_PER_DEVICE": "1000",
            **(environment or {}),
        },
    )  # fmt: skip
    await server.start(lambda: _says(f"http://127.0.0.1:{internal}/metrics", stored))
    try:
        yield Running(
            f"http://127.0.0.1:{port}", server.pid, internal=f"http://127.0.0.1:{internal}"
        )
    finally:
        await server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database on a server of its own that writes to disk as real ones do.

    Raises NotMeasured where PostgreSQL is missing.
    """
    programs = find_postgres()
    if programs is None:
        raise NotMeasured("PostgreSQL is not installed: scripts/system-packages")
    with Postgres(programs, durable=True) as server:
        yield server.new_database()


def stored_files(folder: Path) -> Path:
    """Where the update server that was started with `folder` keeps artifacts."""
    return folder / "server" / "artifacts" / "sha256"


@asynccontextmanager
async def bare_uvicorn(body_size: int, folder: Path) -> AsyncIterator[Running]:
    """uvicorn with an application that sends one fixed body."""
    port = free_port()
    server = _program("bare_uvicorn", folder, [cores()[0], port, body_size])
    await server.start(lambda: _says(f"http://127.0.0.1:{port}/", ""))
    try:
        yield Running(f"http://127.0.0.1:{port}", server.pid)
    finally:
        await server.stop()


@asynccontextmanager
async def nginx(files: Path, folder: Path) -> AsyncIterator[Running]:
    """nginx that serves a folder, one process. Raises NotMeasured where it is missing."""
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + _SBIN)
    if program is None:
        raise NotMeasured("nginx is not installed: scripts/system-packages")
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(folder=folder, port=port, files=files))
    server = Server(
        "nginx",
        [program, "-p", str(folder), "-e", "stderr", "-c", str(configuration)],
        folder / "nginx.log",
    )
    some_file = next(file.name for file in files.iterdir() if not file.suffix)
    with on_core(cores()[0]):
        await server.start(lambda: _says(f"http://127.0.0.1:{port}/{some_file}", None))
    try:
        yield Running(f"http://127.0.0.1:{port}", server.pid)
    finally:
        await server.stop()


def program(name: str, *arguments: object) -> list[str]:
    """The command line of one of `benchmarks.programs`, to be run in `ROOT`."""
    return [sys.executable, "-m", f"benchmarks.programs.{name}", *map(str, arguments)]


def _program(
    name: str,
    folder: Path,
    arguments: Sequence[object],
    environment: Mapping[str, str] | None = None,
) -> Server:
    return Server(
        name,
        program(name, *arguments),
        folder / f"{name}.log",
        environment={"PYTHONPATH": str(ROOT), **(environment or {})},
    )


async def _says(url: str, wanted: str | None) -> bool:
    """Whether `url` is answered with 200 and, unless None, a text that holds `wanted`."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with suppress(httpx.TransportError):
            reply = await client.get(url)
            return reply.status_code == 200 and (wanted is None or wanted in reply.text)
    return False
