"""The story without Kubernetes: one `otaflux standalone` on a folder of manifests."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from otaflux_cli.control_plane.processes import Server, free_port, run_command
from otaflux_cli.demo.backdrops import (
    FIRST,
    GROUPS_FILE,
    NAMESPACE,
    REPOSITORY,
    ROLLOUT,
    ROLLOUT_FILE,
    SHORT_SPANS,
    Hints,
    answers,
    check_running,
    examples_folder,
    replaced,
    shortened,
)
from otaflux_cli.standalone.databases import Database
from otaflux_oci import ImageLayout, Repository
from otaflux_operator.ports import Key, Kind

_OTAFLUX = (sys.executable, "-m", "otaflux_cli.main")
_KEY = Key(Kind.ROLLOUT, NAMESPACE, ROLLOUT)


class Host:
    """A `Backdrop`."""

    name = "one host, without Kubernetes"

    def __init__(self, folder: Path, process: Server, ports: tuple[int, int]) -> None:
        self._folder = folder
        self._manifests = folder / "manifests"
        self._process = process
        self._device_port, self._internal_port = ports
        self._database: Database | None = None
        self._tag = FIRST

    @property
    def device_url(self) -> str:
        return f"http://127.0.0.1:{self._device_port}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self._internal_port}"

    @property
    def internal_headers(self) -> Mapping[str, str]:
        return {}

    async def push(self, version: str, image: bytes) -> str:
        file = self._folder / f"thermostat-{version}.bin"
        file.write_bytes(image)
        layout = ImageLayout(self._folder / "firmware")
        repository = Repository.parse(REPOSITORY)
        await asyncio.to_thread(layout.add, repository, file, version=version)
        return f"otaflux firmware add {file.name} --version {version} --repository {REPOSITORY}"

    async def apply(self) -> str:
        for name in (GROUPS_FILE, ROLLOUT_FILE):
            text = (examples_folder() / name).read_text()
            if name == ROLLOUT_FILE:
                text = shortened(text)
            await asyncio.to_thread((self._manifests / name).write_text, text)
        return f"cp examples/*.yaml {self._manifests}/"

    async def release(self, version: str) -> str:
        await self._edit(f"    tag: {self._tag}\n", f"    tag: {version}\n")
        self._tag = version
        return f"edit {ROLLOUT_FILE}: tag: {version}"

    async def rollout(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._read) or {"status": {}}

    async def overview(self) -> tuple[str, str]:
        shown = await run_command(
            [*_OTAFLUX, "rollouts", "--data", str(self._folder / "data")],
            environment={"COLUMNS": "120"},
        )
        return "otaflux rollouts", shown

    def hints(self) -> Hints:
        return Hints(
            setup=(
                f"cd {self._folder}",
                f"export PATH={Path(sys.executable).parent}:$PATH",
                f"export OTAFLUX_SERVER_URL={self.internal_url}",
            ),
            commands=(
                ("the rollout", "otaflux rollouts"),
                ("all of its status", "otaflux rollouts -o json"),
                ("the manifests, to edit", f"ls {self._manifests}"),
                ("a device asks", f"curl '{self.device_url}/version?device=kitchen-1'"),
                ("why it gets that", "otaflux explain kitchen-1"),
                ("who is in which ring", f"otaflux preview {ROLLOUT}"),
                ("all devices", "otaflux devices"),
                ("metrics", f"curl {self.internal_url}/metrics"),
                ("log", f"tail -f {self._process.log}"),
            ),
        )

    def check(self) -> None:
        check_running([self._process])

    def close(self) -> None:
        """Let go of the status file."""
        if self._database is not None:
            self._database.close()

    def _read(self) -> dict[str, Any] | None:
        if self._database is None:
            self._database = Database(self._folder / "data", read_only=True)
        return self._database.resource(_KEY)

    async def _edit(self, old: str, new: str) -> None:
        file = self._manifests / ROLLOUT_FILE
        text = replaced(await asyncio.to_thread(file.read_text), old, new)
        changed = file.with_suffix(".new")
        await asyncio.to_thread(changed.write_text, text)
        changed.replace(file)


@asynccontextmanager
async def host(folder: Path, report: Callable[[str], None]) -> AsyncIterator[Host]:
    """A standalone server up, in `folder`; `report` is told so.

    Raises:
        StartFailed: it does not start.
    """
    device, internal = free_port(), free_port()
    (folder / "manifests").mkdir()
    process = Server(
        "standalone server",
        [
            *_OTAFLUX,
            "standalone",
            *("--manifests", str(folder / "manifests")),
            *("--data", str(folder / "data")),
            *("--layout", str(folder / "firmware")),
            *("--listen", f"127.0.0.1:{device}"),
            *("--internal-listen", f"127.0.0.1:{internal}"),
        ],
        folder / "standalone.log",
        environment=SHORT_SPANS,
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            await process.start(lambda: answers(client, f"http://127.0.0.1:{internal}/readyz"))
        report(f"otaflux standalone at http://127.0.0.1:{device}")
        made = Host(folder, process, (device, internal))
        try:
            yield made
        finally:
            made.close()
    finally:
        await process.stop()
