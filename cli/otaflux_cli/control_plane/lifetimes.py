"""What servers of tests and demo share: they start and stop with a context, in a folder."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self


class Lifetime(ABC):
    """Starts and stops with its context; ``folder`` is kept where it was given, else removed."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name = name
        self._own_folder = folder is None
        self._folder = folder

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @property
    def folder(self) -> Path:
        """Holds data, configuration and the servers' ``*.log``."""
        if self._folder is None:
            raise RuntimeError(f"the {self._name} was not started")
        return self._folder

    @abstractmethod
    async def start(self) -> None:
        """Start, or start again on the same data and port after ``stop()``."""

    @abstractmethod
    async def stop(self, *, kill: bool = False) -> None:
        """Stop what runs; ``kill`` gives it no chance to end by itself."""

    def _make_folder(self) -> None:
        if self._folder is None:
            prefix = f"otaflux-{self._name.replace(' ', '-')}-"
            self._folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._folder.mkdir(parents=True, exist_ok=True)

    async def _close(self) -> None:
        await self.stop()
        if self._own_folder and self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
