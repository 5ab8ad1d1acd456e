from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from tests.e2e.installations import Firmware, Installation

Push = Callable[[Firmware, str], Awaitable[str]]


@pytest.fixture
async def installation(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    async with Installation(control_plane, namespace, tmp_path) as installed:
        yield installed


@pytest.fixture
def push(registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path) -> Push:
    """`await push(firmware, tag)` → the repository, pushed to with the real oras."""

    async def pushed(firmware: Firmware, tag: str) -> str:
        (tmp_path / "firmware.bin").write_bytes(firmware.data)
        target = f"{registry_v3.host}/{repository}"
        await oras(
            "push", "--plain-http", f"{target}:{tag}", "firmware.bin:application/octet-stream",
            cwd=tmp_path,
        )  # fmt: skip
        return target

    return pushed
