"""A folder with manifests, firmware and data, and standalone on it in the test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from otaflux_cli.firmware.images import make_image
from otaflux_cli.standalone.running import Standalone, standalone
from otaflux_oci import ImageLayout, Repository
from otaflux_server.settings import (
    EvidenceSettings,
    IdentityKind,
    IdentitySettings,
    InternalAuthentication,
    InternalSettings,
    Settings,
)
from tests.fixtures.oci_sources import LOOPBACK


def image(version: str) -> bytes:
    return make_image(version, size=16 * 1024)


class Place:
    """A folder with manifests, layout and data, and what serves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.file = self.manifests / "firmware.yaml"
        self.data = folder / "data"

    def add(self, version: str, repository: str = "localhost/firmware") -> None:
        file = self.folder / "app.bin"
        file.write_bytes(image(version))
        layout = ImageLayout(self.folder / "firmware")
        layout.add(Repository.parse(repository), file, version=version)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Standalone]:
        """Spans of evidence are short: nobody waits for minutes."""
        settings = Settings(
            listen="127.0.0.1:0",
            internal_listen="127.0.0.1:0",
            data_dir=self.data / "server",
            identity=IdentitySettings(kind=IdentityKind.OPEN),
            internal=InternalSettings(authentication=InternalAuthentication.NONE),
            registries=LOOPBACK,
            evidence=EvidenceSettings(scan_seconds=0, poll_gap_seconds=1, batch_seconds=0.05),
        )
        async with standalone(
            self.manifests, self.data, settings, layout=self.folder / "firmware"
        ) as running:
            yield running
