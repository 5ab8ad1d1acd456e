"""Standalone: the operator and the update server in one process, on one folder of manifests."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from otaflux_cli.standalone.databases import Database
from otaflux_cli.standalone.folders import ManifestFolder
from otaflux_cli.standalone.ports import (
    FolderSecrets,
    LocalEntries,
    LocalPublications,
    LocalServer,
    LocalSources,
    LoggedNotices,
    StoredResources,
)
from otaflux_cli.standalone.sources import ArtifactPlaces
from otaflux_operator.operating import Operator
from otaflux_operator.ports import Ports
from otaflux_operator.timing import Timing
from otaflux_server.registries import PullCredentials
from otaflux_server.serving import UpdateServer
from otaflux_server.settings import Settings

_LOCK = "standalone.lock"
# Whoever adds the missing firmware watches: a layout costs nothing to look at again, and the
# server in the same process nothing to ask.
_TIMING = Timing(retry_most=10.0, ask_evidence=0.5)


class AlreadyRunning(Exception):
    """Another process uses the data folder."""


@dataclass(frozen=True, slots=True)
class Standalone:
    """A running one. The URLs end without a slash."""

    device_url: str
    internal_url: str
    folder: ManifestFolder
    database: Database
    _tasks: tuple[asyncio.Task[None], ...]

    async def failure(self) -> None:
        """Waits until a part fails, and raises what it failed with."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


@asynccontextmanager
async def standalone(
    manifests: Path,
    data: Path,
    settings: Settings,
    *,
    layout: Path | None = None,
    timing: Timing | None = None,
) -> AsyncIterator[Standalone]:
    """Runs until the context ends.

    `settings` are the server's; `data` holds what is not the server's.

    Raises:
        AlreadyRunning, DatabaseUnusable: the data folder cannot be used.
        OSError: the manifests cannot be read, or an address cannot be listened on.
    """
    data.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        _lock(data, stack)
        database = await asyncio.to_thread(Database, data)
        stack.callback(database.close)
        folder = ManifestFolder(manifests, database)
        await folder.load()
        credentials = PullCredentials()
        places = ArtifactPlaces(
            layout,
            credentials,
            settings.registries,
            max_artifact_bytes=settings.artifacts.max_artifact_bytes,
        )
        server = await stack.enter_async_context(
            UpdateServer(settings, artifact_source=places.pull, credentials=credentials)
        )
        publications = LocalPublications(database, server.policies)
        await publications.restore()
        server.policies.connected()
        operator = Operator(
            Ports(
                resources=StoredResources(database),
                publications=publications,
                notices=LoggedNotices(),
                secrets=FolderSecrets(folder),
                entries=LocalEntries(credentials),
                servers=LocalServer(server),
                sources=LocalSources(places),
            ),
            timing or _TIMING,
        )
        tasks = (
            asyncio.create_task(operator.run(), name="operator"),
            asyncio.create_task(_follow(folder, operator), name="manifests"),
        )
        try:
            yield Standalone(server.device_url, server.internal_url, folder, database, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(folder: ManifestFolder, operator: Operator) -> None:
    async for changed in folder.changes():
        for key in changed:
            operator.mark(key)


def _lock(data: Path, stack: AsyncExitStack) -> None:
    file = stack.enter_context((data / _LOCK).open("w"))
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    raise AlreadyRunning(
        f"another `otaflux standalone` uses {data}: stop it, or give another --data folder"
    )
