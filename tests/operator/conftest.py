from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from tests.operator.clusters import Rollout, push
from tests.operator.signed_registries import FIRST, SignedRegistry


@pytest.fixture
def rollout(control_plane: ControlPlane, namespace: str) -> Rollout:
    return Rollout(control_plane, namespace)


@pytest.fixture
async def firmware(registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path) -> str:
    """A repository with the tags 1.0.0 and 1.1.0."""
    reference = f"{registry_v3.host}/{repository}"
    for tag in ("1.0.0", "1.1.0"):
        await push(oras, tmp_path, f"{reference}:{tag}", f"firmware {tag}".encode())
    return reference


@pytest.fixture
async def registry() -> AsyncIterator[SignedRegistry]:
    """With 1.0.0, signed by FIRST."""
    async with SignedRegistry() as registry:
        registry.sign(registry.firmware("1.0.0"), FIRST)
        yield registry
