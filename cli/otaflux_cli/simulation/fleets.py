"""A fleet of simulated devices on one event loop."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from random import Random
from time import monotonic
from types import TracebackType
from typing import Self

from otaflux_cli.simulation.devices import (
    HOPELESS,
    Behaviour,
    Counted,
    DeviceState,
    JsonDevice,
    NativeDevice,
    NativeTakes,
    SimulatedDevice,
    Surroundings,
)
from otaflux_cli.simulation.exchanges import Origin

MOST_AT_ONCE = 400
"""Devices in an exchange at one time: below the 1 024 open files that many systems allow."""

_SELDOM_TIMES = 10
_LOOK_SECONDS = 0.05
"""How often `wait_until` looks at most: thousands of devices change thousands of times a second."""
_ENDED = frozenset({DeviceState.FAILED, DeviceState.REVERTED, DeviceState.BRICKED})


class ProtocolMix(StrEnum):
    """Which protocol the devices speak; `MIXED` takes turns."""

    NATIVE = "native"
    JSON = "json"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Spans are seconds, shares percent of the devices.

    `jitter` is the greatest share by which the wait between two polls differs from `interval`.
    `seed` draws who fails, reverts and so on: the same seed and ids, the same devices. `harmful`
    are the versions that devices fail, revert or brick at (empty: every one). `recovery` is after
    how long a bricked device is back with the version of before (None: only by `revive`).
    """

    interval: float = 5.0
    jitter: float = 20.0
    failures: float = 0.0
    reverts: float = 0.0
    bricks: float = 0.0
    slow: float = 0.0
    breaks: float = 0.0
    seldom: float = 0.0
    reboot: float = 0.5
    slow_download: float = 3.0
    recovery: float | None = None
    failure_code: str = "flash-write"
    harmful: frozenset[str] = frozenset()
    version: str = "1.0.0"
    model: str | None = None
    native_reports_version: bool = False
    native_takes: NativeTakes = NativeTakes.NEWER
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """A fleet at one moment: devices per (version, state), what was counted, seconds so far.

    `by_version` counts what devices run; bricked ones run nothing.
    """

    devices: int
    unreachable: int
    by_version: dict[str, int]
    by_state: dict[tuple[str, DeviceState], int]
    counted: dict[Counted, int] = field(default_factory=dict)
    seconds: float = 0.0


class Fleet:
    """Devices that poll from `__aenter__` (or `start`) on until the context ends (or `stop`).

    `behaviours` decides for the devices that it names, instead of the settings' shares.

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
        behaviours: Mapping[str, Behaviour] | None = None,
    ) -> None:
        self._settings = settings = settings or FleetSettings()
        url = server.rstrip("/") + (f"/t/{namespace}" if namespace else "")
        random = Random(settings.seed)
        self._surroundings = Surroundings(
            origin=Origin(url),
            random=random,
            slots=asyncio.Semaphore(MOST_AT_ONCE),
            reboot=settings.reboot,
            slow_download=settings.slow_download,
            failure_code=settings.failure_code,
            harmful=settings.harmful,
            native_reports_version=settings.native_reports_version,
            native_takes=settings.native_takes,
        )
        drawn = _behaviours(ids, settings) | dict(behaviours or {})
        self.devices: list[SimulatedDevice] = [
            _kind(protocol, number)(
                surroundings=self._surroundings,
                id=device,
                version=settings.version,
                model=settings.model,
                behaviour=drawn[device],
            )
            for number, device in enumerate(ids)
        ]
        self._changed = asyncio.Event()
        self._revivals: dict[str, asyncio.Event] = {}
        self._running: list[asyncio.Task[None]] = []
        self._started = monotonic()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        except Exception:
            if error is None:
                raise

    def start(self) -> None:
        """Every device begins to poll; after `stop`, as it was then."""
        if self._running:
            raise RuntimeError("the fleet runs already")
        self._started = monotonic()
        self._running = [asyncio.create_task(self._live(device)) for device in self.devices]

    async def stop(self) -> None:
        """Every device goes silent, in the middle of what it does.

        Raises what a device's task ended with, if one did: a defect of the simulator.
        """
        for task in self._running:
            task.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    def revive(self) -> None:
        """All bricked devices are back, with the version of before."""
        for revival in self._revivals.values():
            revival.set()

    @property
    def last_error(self) -> str:
        """What went wrong last in an exchange with the server; empty while nothing has."""
        return self._surroundings.last_error

    def summary(self) -> Summary:
        """The fleet now."""
        by_state = Counter((device.version, device.state) for device in self.devices)
        return Summary(
            devices=len(self.devices),
            unreachable=sum(not device.reachable for device in self.devices),
            by_version=dict(sorted(self.versions().items())),
            by_state=dict(sorted(by_state.items())),
            counted={what: self._surroundings.counted[what] for what in Counted},
            seconds=round(monotonic() - self._started, 1),
        )

    def versions(self, ids: Collection[str] | None = None) -> Counter[str]:
        """How many devices run what, of all or of `ids`; bricked ones run nothing."""
        wanted = None if ids is None else frozenset(ids)
        return Counter(
            device.version
            for device in self.devices
            if device.state is not DeviceState.BRICKED and (wanted is None or device.id in wanted)
        )

    async def wait_until(
        self, reached: Callable[["Fleet"], bool], timeout: float | None = None
    ) -> bool:
        """Wait until `reached(self)`, looked at after polls; False after `timeout` seconds.

        Raises what a device's task ended with, if one did.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not reached(self):
                    self._changed.clear()
                    await self._changed.wait()
                    self.check()
                    await asyncio.sleep(_LOOK_SECONDS)
        return reached(self)

    def wake(self) -> None:
        """Make `wait_until` look again now."""
        self._changed.set()

    def all_run(self, version: str) -> bool:
        """Whether every device that can runs `version`; those that it harms never will."""
        return all(
            device.state is not DeviceState.BRICKED
            if device.version == version
            else device.behaviour in HOPELESS and device.state in _ENDED
            for device in self.devices
        )

    def check(self) -> None:
        """Raises what a device's task ended with, if one did: a defect of the simulator."""
        for task in self._running:
            if task.done() and not task.cancelled():
                task.result()

    async def _live(self, device: SimulatedDevice) -> None:
        settings, random = self._settings, self._surroundings.random
        seldom = device.behaviour is Behaviour.SELDOM
        interval = settings.interval * (_SELDOM_TIMES if seldom else 1)
        spread = settings.jitter / 100
        await asyncio.sleep(random.uniform(0, interval))
        try:
            while True:
                if device.state is DeviceState.BRICKED:
                    await self._recovery(device)
                await device.cycle()
                self._changed.set()
                if device.state is not DeviceState.BRICKED:
                    await asyncio.sleep(interval * random.uniform(1 - spread, 1 + spread))
        finally:
            self._changed.set()

    async def _recovery(self, device: SimulatedDevice) -> None:
        revival = self._revivals[device.id] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.recovery):
                    await revival.wait()
        finally:
            del self._revivals[device.id]
        device.recover()


def device_ids(count: int, prefix: str = "sim") -> list[str]:
    """`sim-00001`, `sim-00002`, …"""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def _kind(protocol: ProtocolMix, number: int) -> type[SimulatedDevice]:
    if protocol is ProtocolMix.MIXED:
        return JsonDevice if number % 2 else NativeDevice
    return JsonDevice if protocol is ProtocolMix.JSON else NativeDevice


def _behaviours(ids: Sequence[str], settings: FleetSettings) -> dict[str, Behaviour]:
    """Exactly the shares, rounded; who, is drawn by a hash of the seed and the id."""
    shares = (
        (Behaviour.FAILS, settings.failures),
        (Behaviour.REVERTS, settings.reverts),
        (Behaviour.BRICKS, settings.bricks),
        (Behaviour.SLOW, settings.slow),
        (Behaviour.BREAKS, settings.breaks),
        (Behaviour.SELDOM, settings.seldom),
    )
    if any(share < 0 for _, share in shares) or sum(share for _, share in shares) > 100:
        raise ValueError("the shares of the devices' behaviours exceed 100 % together")
    drawn = dict.fromkeys(ids, Behaviour.NORMAL)
    order = iter(
        sorted(ids, key=lambda device: sha256(f"{settings.seed} {device}".encode()).digest())
    )
    for behaviour, share in shares:
        for device in islice(order, round(len(ids) * share / 100)):
            drawn[device] = behaviour
    return drawn
