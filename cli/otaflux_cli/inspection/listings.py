"""All devices that a filter leaves, over as many pages as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from otaflux_cli.errors import UserError
from otaflux_cli.inspection.servers import InternalServer
from otaflux_policy.attempts import AttemptState
from otaflux_policy.reasons import DecisionReason
from otaflux_server.listing import PENDING, DevicePage, DeviceView

PAGE = 1000
"""Devices that are asked for at one time: the most that the API gives."""

COLUMNS = ("Namespace", "Device", "Version", "Model", "Rollout", "Ring", "State", "Reason", "Seen")
STATES = (PENDING, *AttemptState)
REASONS = tuple(DecisionReason)


@dataclass(frozen=True, slots=True)
class Found:
    """Devices, as models and as they came; `more`: there are others beyond the limit."""

    devices: list[DeviceView]
    data: list[Any]
    more: bool


def read(server: InternalServer, limit: int, **filters: str | int | None) -> Found:
    """Up to `limit` devices. Raises UserError."""
    devices: list[DeviceView] = []
    data: list[Any] = []
    after: str | None = None
    while len(devices) < limit:
        asked = min(PAGE, limit - len(devices))
        page, came = server.get(DevicePage, "devices", limit=asked, after=after, **filters)
        devices += page.devices
        data += came["devices"]
        if page.next is None:
            return Found(devices, data, more=False)
        if page.next == after:
            raise UserError("the update server gives the same page again and again")
        after = page.next
    return Found(devices, data, more=True)


def table_of(devices: Sequence[DeviceView], now: datetime) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; without the columns that tell nothing."""
    rows = [_row(device, now) for device in devices]
    namespaces = {device.namespace for device in devices}
    told = [
        number
        for number, column in enumerate(COLUMNS)
        if (len(namespaces) > 1 if column == "Namespace" else any(row[number] for row in rows))
    ]
    return [COLUMNS[number] for number in told], [[row[number] for number in told] for row in rows]


def _row(device: DeviceView, now: datetime) -> tuple[str, ...]:
    return (
        device.namespace,
        device.device,
        device.version or "",
        device.model or "",
        device.rollout or "",
        device.ring or "",
        str(device.state or ""),
        device.reason.value if device.reason is not None else "",
        age((now - device.last_seen).total_seconds()),
    )


def age(seconds: float) -> str:
    """How long ago, in one unit: `12s`, `5m`, `3h`, `9d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
