"""The folder of manifests, watched: what is valid is taken up, what is not leaves the last good."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import structlog
from watchfiles import awatch

from otaflux_cli.standalone.databases import Database
from otaflux_cli.standalone.manifests import SUFFIXES, Folder, Name, read_folder
from otaflux_operator.ports import Key, Kind

log = structlog.get_logger(__name__)

RESCAN_SECONDS = 30
"""How often the folder is read although nothing was seen: some file systems tell nothing."""


class ManifestFolder:
    """Keeps a database in step with a folder; Secrets stay in memory."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database
        self._secrets: dict[str, dict[Name, dict[str, bytes]]] = {}
        self._problems: dict[str, tuple[str, ...]] = {}

    @property
    def problems(self) -> Mapping[str, tuple[str, ...]]:
        """By file, what is wrong with it now."""
        return self._problems

    def secret(self, name: Name) -> Mapping[str, bytes] | None:
        """The decoded data of a Secret of the folder."""
        for secrets in self._secrets.values():
            if name in secrets:
                return secrets[name]
        return None

    async def load(self) -> set[Key]:
        """Reads the folder; the objects that are new, changed or gone, or may use a new Secret.

        Raises:
            OSError: the folder cannot be read; nothing has changed then.
        """
        folder = await asyncio.to_thread(read_folder, self._folder)
        self._log(folder)
        changed = await asyncio.to_thread(self._store, folder)
        if self._take_secrets(folder):
            keys = await asyncio.to_thread(self._database.keys)
            changed |= {key for key in keys if key.kind is Kind.ROLLOUT}
        return changed

    async def changes(self) -> AsyncIterator[set[Key]]:
        """The objects that change, until the caller stops listening."""
        events = awatch(
            self._folder,
            watch_filter=lambda _, path: path.lower().endswith(SUFFIXES),
            debounce=200,
            step=20,
            rust_timeout=RESCAN_SECONDS * 1000,
            yield_on_timeout=True,
            recursive=False,
        )
        async for _ in events:
            try:
                changed = await self.load()
            except OSError as error:
                log.error("manifests cannot be read", folder=str(self._folder), error=str(error))
                continue
            if changed:
                yield changed

    def _store(self, folder: Folder) -> set[Key]:
        manifests = {
            key: (file, manifest)
            for file, content in folder.files.items()
            for key, manifest in content.manifests.items()
        }
        for key, (file, manifest) in self._database.manifests().items():
            if file in folder.problems:
                manifests.setdefault(key, (file, manifest))
        return self._database.replace(manifests)

    def _take_secrets(self, folder: Folder) -> bool:
        kept = {file: secrets for file, secrets in self._secrets.items() if file in folder.problems}
        read = {file: content.secrets for file, content in folder.files.items() if content.secrets}
        before, self._secrets = self._secrets, kept | read
        return before != self._secrets

    def _log(self, folder: Folder) -> None:
        for file, problems in folder.problems.items():
            if problems != self._problems.get(file):
                for problem in problems:
                    log.error(
                        "manifest refused, its last valid content stays", file=file, problem=problem
                    )
        for file in self._problems.keys() - folder.problems.keys():
            log.info("manifest is valid again" if file in folder.files else "file gone", file=file)
        self._problems = dict(folder.problems)
