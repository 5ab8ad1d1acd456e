"""A fleet of simulated devices on one event loop."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from time import monotonic
from types import TracebackType
from typing import Self

from otaflux_cli.simulation.devices import (
    Behaviour,
    Counted,
    DeviceState,
    JsonDevice,
    NativeDevice,
    SimulatedDevice,
    Surroundings,
)
from otaflux_cli.simulation.exchanges import Origin

MOST_AT_ONCE = 400
"""Devices in an exchange at one time: below the 1 024 open files that many systems allow."""


class ProtocolMix(StrEnum):
    """Which protocol the devices speak; `MIXED` takes turns."""

    NATIVE = "native"
    JSON = "json"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Spans are seconds, shares percent of the devices.

    `jitter` is the greatest share by which the wait between two polls differs from `interval`.
    `seed` draws who fails, reverts, is slow or breaks off: the same seed, the same devices.
    """

    interval: float = 5.0
    jitter: float = 20.0
    failures: float = 0.0
    reverts: float = 0.0
    slow: float = 0.0
    breaks: float = 0.0
    reboot: float = 0.5
    slow_download: float = 3.0
    version: str = "1.0.0"
    model: str | None = None
    native_reports_version: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """A fleet at one moment: devices per (version, state), what was counted, seconds so far."""

    devices: int
    unreachable: int
    by_version: dict[str, int]
    by_state: dict[tuple[str, DeviceState], int]
    counted: dict[Counted, int] = field(default_factory=dict)
    seconds: float = 0.0


class Fleet:
    """Devices that poll from `__aenter__` on until the context ends.

    Raises:
        InvalidServerUrl: from the constructor.
        ValueError: from the constructor, where the shares of the behaviours exceed 100 percent.
    """

    def __init__(
        self,
        server: str,
        ids: Sequence[str],
        protocol: ProtocolMix = ProtocolMix.MIXED,
        settings: FleetSettings | None = None,
        *,
        namespace: str | None = None,
    ) -> None:
        self._settings = settings = settings or FleetSettings()
        url = server.rstrip("/") + (f"/t/{namespace}" if namespace else "")
        random = Random(settings.seed)
        self._surroundings = Surroundings(
            origin=Origin(url),
            random=random,
            reboot=settings.reboot,
            slow_download=settings.slow_download,
            native_reports_version=settings.native_reports_version,
        )
        behaviours = _behaviours(len(ids), settings, random)
        self.devices: list[SimulatedDevice] = [
            _kind(protocol, number)(
                surroundings=self._surroundings,
                id=device,
                version=settings.version,
                model=settings.model,
                behaviour=behaviours[number],
            )
            for number, device in enumerate(ids)
        ]
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._changed = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self._started = monotonic()

    async def __aenter__(self) -> Self:
        self._started = monotonic()
        self._running = [asyncio.create_task(self._live(device)) for device in self.devices]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._running:
            task.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        if error is None:
            for outcome in ended:
                if isinstance(outcome, Exception):
                    raise outcome

    @property
    def last_error(self) -> str:
        """What went wrong last in an exchange with the server; empty while nothing has."""
        return self._surroundings.last_error

    def summary(self) -> Summary:
        """The fleet now."""
        by_version = Counter(device.version for device in self.devices)
        by_state = Counter((device.version, device.state) for device in self.devices)
        return Summary(
            devices=len(self.devices),
            unreachable=sum(not device.reachable for device in self.devices),
            by_version=dict(sorted(by_version.items())),
            by_state=dict(sorted(by_state.items())),
            counted={what: self._surroundings.counted[what] for what in Counted},
            seconds=round(monotonic() - self._started, 1),
        )

    async def wait_until(
        self, reached: Callable[["Fleet"], bool], timeout: float | None = None
    ) -> bool:
        """Wait until `reached(self)`, looked at after each poll; False after `timeout` seconds.

        Raises what a device's task ended with, if one did.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not reached(self):
                    self._changed.clear()
                    await self._changed.wait()
                    self.check()
        return reached(self)

    def wake(self) -> None:
        """Make `wait_until` look again now."""
        self._changed.set()

    def all_run(self, version: str) -> bool:
        """Whether every device that can runs `version`; `FAILS` and `REVERTS` never will."""
        return all(
            device.version == version
            or (
                device.behaviour in (Behaviour.FAILS, Behaviour.REVERTS)
                and device.state in (DeviceState.FAILED, DeviceState.REVERTED)
            )
            for device in self.devices
        )

    def check(self) -> None:
        """Raises what a device's task ended with, if one did: a defect of the simulator."""
        for task in self._running:
            if task.done() and not task.cancelled():
                task.result()

    async def _live(self, device: SimulatedDevice) -> None:
        settings, random = self._settings, self._surroundings.random
        await asyncio.sleep(random.uniform(0, settings.interval))
        try:
            while True:
                async with self._slots:
                    await device.cycle()
                self._changed.set()
                spread = settings.jitter / 100
                await asyncio.sleep(settings.interval * random.uniform(1 - spread, 1 + spread))
        finally:
            self._changed.set()


def device_ids(count: int, prefix: str = "sim") -> list[str]:
    """`sim-00001`, `sim-00002`, …"""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def _kind(protocol: ProtocolMix, number: int) -> type[SimulatedDevice]:
    if protocol is ProtocolMix.MIXED:
        return JsonDevice if number % 2 else NativeDevice
    return JsonDevice if protocol is ProtocolMix.JSON else NativeDevice


def _behaviours(count: int, settings: FleetSettings, random: Random) -> list[Behaviour]:
    shares = (
        (Behaviour.FAILS, settings.failures),
        (Behaviour.REVERTS, settings.reverts),
        (Behaviour.SLOW, settings.slow),
        (Behaviour.BREAKS, settings.breaks),
    )
    if any(share < 0 for _, share in shares) or sum(share for _, share in shares) > 100:
        raise ValueError("the shares of failing, reverting, slow and breaking devices exceed 100 %")
    drawn = [behaviour for behaviour, share in shares for _ in range(round(count * share / 100))][
        :count
    ]
    drawn += [Behaviour.NORMAL] * (count - len(drawn))
    random.shuffle(drawn)
    return drawn
