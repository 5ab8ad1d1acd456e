"""What devices do and get: the one place where protocols meet decisions and records."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from otaflux_policy.decisions import Decision
from otaflux_policy.devices import Device
from otaflux_server.artifacts import ArtifactStore, StoredArtifact
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceRecord, Devices, Report, Transfer
from otaflux_server.metrics import Metrics
from otaflux_server.settings import Settings


@dataclass(slots=True)
class Asking:
    """Who asks, and what the device says of itself."""

    namespace: str
    device: str
    version: str | None = None
    model: str | None = None
    attributes: Mapping[str, str] | None = None
    report: Report | None = None


class Fleet:
    """The devices of all namespaces. Synchronous, on the server's event loop only."""

    def __init__(
        self,
        decisions: Decisions,
        devices: Devices,
        artifacts: ArtifactStore,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.devices = devices
        self._decisions = decisions
        self._artifacts = artifacts
        self._clock = clock
        self._monotonic = monotonic

    def observe(self, protocol: str, asking: Asking) -> DeviceRecord:
        """Records a poll. What it says of the device replaces what earlier ones said.

        A poll that is silent about the version makes it unknown: the device may have been
        updated since it spoke, and after a restart the server would not know better either.
        """
        record = self.devices.seen(asking.namespace, asking.device, protocol, self._clock())
        device = record.device
        if device.version != asking.version or device.model != asking.model:
            record.device = Device(asking.namespace, asking.device, asking.model, asking.version)
        record.attributes = asking.attributes or {}
        return record

    def notice(self, protocol: str, asking: Asking) -> DeviceRecord:
        """Records that a device is there that does not poll (a download, a report).

        What it says of itself counts only while nothing is known from a poll.
        """
        record = self.devices.seen(asking.namespace, asking.device, protocol, self._clock())
        if record.reason is None and (asking.version or asking.model):
            record.device = Device(asking.namespace, asking.device, asking.model, asking.version)
        if asking.report is not None:
            record.report = asking.report
            record.reported_at = record.last_seen
            self.metrics.reports.labels(protocol, asking.report.state).inc()
        return record

    def decide(self, record: DeviceRecord) -> Decision:
        """What the device gets now."""
        cached = record.cached = self._decisions.decide(record.device, record.cached)
        return cached.decision

    def stored(self, record: DeviceRecord) -> StoredArtifact | None:
        """The bytes of the release that was decided on last."""
        return None if record.cached is None else record.cached.artifact

    def pin(self, record: DeviceRecord, artifact: StoredArtifact | None) -> None:
        """Binds the device to what it was told, for `pin_seconds`; None: to nothing."""
        if artifact is None:
            record.pinned = None
        else:
            record.pinned = artifact.digest
            record.pinned_until = self._monotonic() + self.settings.pin_seconds

    def pinned(self, record: DeviceRecord) -> StoredArtifact | None:
        """What the device was told, if that is recent and it would get the same now."""
        artifact = self.stored(record)
        if artifact is None or artifact.digest != record.pinned:
            return None
        return artifact if self._monotonic() < record.pinned_until else None

    def transferred(self, record: DeviceRecord, artifact: StoredArtifact) -> None:
        """Records that all bytes of the artifact went to the device in one response."""
        record.transfer = Transfer(self._clock(), artifact.digest)
        self._artifacts.used(artifact.digest)

    async def discard(self, artifact: StoredArtifact) -> None:
        """The artifact's bytes are gone or cut: it is fetched again."""
        await self._artifacts.discard(artifact.digest)
