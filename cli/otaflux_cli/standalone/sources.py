"""Where standalone gets artifacts from: an image layout on disk for what it holds, else registries.

Repositories of `localhost` (no port) can only be in the layout: nobody runs such a registry.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from otaflux_oci import ImageLayout, NotFound, RegistrySettings, Repository, Source
from otaflux_operator import registries
from otaflux_policy.contract import Artifact
from otaflux_policy.credentials import RegistryAccess
from otaflux_server.registries import PullCredentials, RegistrySources

LAYOUT_ONLY = "localhost"


class ArtifactPlaces:
    """Opens the source of a repository, for the operator (`open`) and the server (`pull`)."""

    def __init__(
        self,
        layout: Path | None,
        credentials: PullCredentials,
        settings: RegistrySettings,
        *,
        max_artifact_bytes: int,
    ) -> None:
        self._layout = None if layout is None else ImageLayout(layout)
        self._lookups = registries.RegistrySources(settings)
        self._pulls = RegistrySources(credentials, settings, max_artifact_bytes=max_artifact_bytes)

    @asynccontextmanager
    async def open(
        self, repository: Repository, access: RegistryAccess, *, insecure: bool
    ) -> AsyncIterator[Source]:
        """Where the repository's manifests and tags are. Raises OciError."""
        layout = await self._holding(repository)
        if layout is not None:
            yield layout
            return
        async with self._lookups.open(repository, access, insecure=insecure) as source:
            yield source

    @asynccontextmanager
    async def pull(self, artifact: Artifact) -> AsyncIterator[Source]:
        """Where the artifact's bytes are. Raises OciError, ArtifactError."""
        layout = await self._holding(Repository.parse(artifact.repository))
        if layout is not None:
            yield layout
            return
        async with self._pulls(artifact) as source:
            yield source

    async def _holding(self, repository: Repository) -> ImageLayout | None:
        if self._layout is None:
            return None
        if repository.registry == LAYOUT_ONLY:
            return self._layout
        try:
            return self._layout if await self._layout.tags(repository) else None
        except NotFound:
            return None
