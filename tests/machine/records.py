"""What a simulated server knows of a device, and what truly happened to its attempts."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from otaflux_policy.attempts import AttemptRef
from otaflux_policy.devices import Device
from otaflux_policy.facts import Facts


@dataclass
class Known:
    """What the server knows of a device. `slots`: the ring whose slot each attempt takes."""

    device: Device
    seen: datetime
    reports: bool = False
    attempts: dict[AttemptRef, Facts] = field(default_factory=dict)
    slots: dict[AttemptRef, str] = field(default_factory=dict)
    pinned: str | None = None
    pinned_at: datetime | None = None


@dataclass
class Log:
    """What happened to one attempt, by the server's clock: the ground of what must hold.

    `failed`: the device said so, last; `good`: it said last that it runs the release.
    `ring`: of its first offer.
    """

    ring: str = ""
    failed: datetime | None = None
    good: datetime | None = None
    begun: datetime | None = None
    deed: datetime | None = None
    downloads: set[datetime] = field(default_factory=set)

    @property
    def has_failed(self) -> bool:
        """Whether it said that it failed, and nothing better at that time or later."""
        return self.failed is not None and (self.good is None or self.failed > self.good)

    def timed_out(self, now: datetime, seconds: int) -> bool:
        """Whether it began, never completed a download, and was silent for longer than it may."""
        if self.begun is None or self.good is not None or self.downloads:
            return False
        return now >= max(self.begun, self.deed or self.begun) + timedelta(seconds=seconds)
