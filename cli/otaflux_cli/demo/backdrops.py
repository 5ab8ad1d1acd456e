"""What the story is told on: a cluster, or one host without one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from otaflux_cli.control_plane.processes import Server

ROLLOUT = "thermostat"
NAMESPACE = "default"
REPOSITORY = "registry.example.com/firmware/thermostat"
FIRST, SECOND = "1.3.2", "1.4.0"
RINGS = ("canary", "early", "fleet")
ROLLOUT_FILE, GROUPS_FILE = "firmwarerollout.yaml", "devicegroups.yaml"
SHORT_SPANS = {
    "OTAFLUX_EVIDENCE__POLL_GAP_SECONDS": "1",
    "OTAFLUX_EVIDENCE__SCAN_SECONDS": "0",
}
"""Settings of the server, for the same reason as `shortened`."""

_TAIL = 15


class DemoFailed(Exception):
    """The story cannot go on; the message says where to look."""


@dataclass(frozen=True, slots=True)
class Hints:
    """How to look around while it is up: what to set first, then pairs of what and its command."""

    setup: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]


class Backdrop(Protocol):
    """Everything that the story does to the world; each act returns how a user would do it."""

    name: str

    @property
    def device_url(self) -> str:
        """Where devices connect."""
        ...

    @property
    def internal_url(self) -> str:
        """The server's internal API."""
        ...

    @property
    def internal_headers(self) -> Mapping[str, str]:
        """What it wants with a request: a token, if any."""
        ...

    async def push(self, version: str, image: bytes) -> str:
        """Puts a firmware version where artifacts come from."""
        ...

    async def apply(self) -> str:
        """Applies the examples."""
        ...

    async def release(self, version: str) -> str:
        """Changes the tag of the rollout."""
        ...

    async def rollout(self) -> dict[str, Any]:
        """The rollout with its status."""
        ...

    async def overview(self) -> tuple[str, str]:
        """A command that shows the rollout, and what it prints."""
        ...

    def hints(self) -> Hints:
        """How to look around."""
        ...

    def check(self) -> None:
        """Raises DemoFailed where a part has ended, with the end of its log."""
        ...


def examples_folder() -> Path:
    """The checkout's `examples/`.

    Raises:
        DemoFailed: this is an installation without them.
    """
    folder = Path(__file__).parents[3] / "examples"
    if not (folder / ROLLOUT_FILE).is_file():
        raise DemoFailed("the demo applies `examples/`: run it in a checkout of the repository")
    return folder


def crds_folder() -> Path:
    """The checkout's `deploy/crds/`."""
    return examples_folder().parent / "deploy" / "crds"


def replaced(text: str, old: str, new: str) -> str:
    """`text` with its one `old` replaced. Raises DemoFailed where there is not exactly one."""
    if text.count(old) != 1:
        raise DemoFailed(f"{ROLLOUT_FILE} should hold {old!r} once: the demo changes it")
    return text.replace(old, new)


def shortened(text: str) -> str:
    """The example's rollout with spans that somebody who watches can wait for."""
    for old, new in (("soak: 1h", "soak: 3s"), ("soak: 6h", "soak: 3s")):
        text = replaced(text, old, new)
    return text


def check_running(processes: Iterable[Server]) -> None:
    """Raises DemoFailed where one has ended, with the end of its log."""
    for process in processes:
        if not process.running:
            tail = process.log.read_text(errors="replace").splitlines()[-_TAIL:]
            raise DemoFailed("\n".join([f"the {process.name} has ended:", *tail]))


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    """Whether `url` is answered with 200."""
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


async def ring_of(client: httpx.AsyncClient, backdrop: Backdrop, device: str) -> str | None:
    """The ring of a device, as the server that decides for it sees it."""
    url = f"{backdrop.internal_url}/internal/v1/devices/{NAMESPACE}/{device}/explain"
    answer = (await client.get(url, headers=backdrop.internal_headers)).raise_for_status().json()
    ring: str | None = answer["ring"]
    return ring
