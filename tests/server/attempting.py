"""What devices say and fetch, and what the database holds of it."""

import asyncio
import json
from pathlib import Path

from otaflux_policy.contract import Ring
from otaflux_policy.facts import Facts
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
)
from otaflux_server.evidence.stores import Store
from tests.server.fleets import (
    Served,
    firmware,
    release,
)

CONTENT = firmware("1.4.0", 40_000)
TARGET = release("1.4.0", CONTENT)
OLD, NEW = "&version=1.3.2", "&version=1.4.0"
CLOSED = (Ring(name="all"),)
QUICK = {"poll_gap_seconds": 0, "request_within_seconds": 1}


def poll(served: Served, device: str = "a", **said: str) -> dict[str, object]:
    answer = served.post("/api/v1/poll", json.dumps({"device": device, **said}).encode())
    assert answer.status == 200
    content: dict[str, object] = json.loads(answer.body)
    return content


def stored(data_dir: Path) -> tuple[dict[AttemptKey, Facts], dict[DeviceKey, DeviceFacts]]:
    """What the database holds."""

    async def read() -> tuple[dict[AttemptKey, Facts], dict[DeviceKey, DeviceFacts]]:
        async with Store(f"sqlite:///{data_dir / 'evidence.db'}") as store:
            changes = await store.changed(None, 10_000)
            return dict(changes.attempts), dict(changes.devices)

    return asyncio.run(read())


def ranges(served: Served, *parts: tuple[int, int], device: str = "a") -> None:
    for first, last in parts:
        answer = served.get(f"/firmware?device={device}", f"Range: bytes={first}-{last}")
        assert answer.body == CONTENT[first : last + 1]
