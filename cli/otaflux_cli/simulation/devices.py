"""A simulated device: polls, downloads, verifies, "reboots", and reports where it can.

`NativeDevice` is the original client: no reports, no version sent, no resume; it flashes what it
downloaded and from then on compares the `version` line with that. `JsonDevice` speaks the plain
JSON protocol: it resumes a broken download by Range and reports each step.
"""

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from asyncio import Semaphore, sleep
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any
from urllib.parse import urlencode

from otaflux_cli.simulation.exchanges import (
    ExchangeFailed,
    Origin,
    Reply,
    TransferBroken,
    exchange,
)
from otaflux_policy import versions

LARGEST_FIRMWARE = 64 * 1024 * 1024
_MOST_TRIES = 3
_MOST_RESUMES = 5
_PIECES_OF_A_SLOW_READER = 20


class DeviceState(StrEnum):
    """What a device does, or how its last update ended."""

    IDLE = "Idle"
    DOWNLOADING = "Downloading"
    INSTALLING = "Installing"
    UPDATED = "Updated"
    FAILED = "Failed"
    REVERTED = "Reverted"
    BRICKED = "Bricked"


class Behaviour(StrEnum):
    """How a device takes an update.

    `FAILS` cannot install it and says so, `REVERTS` boots it and falls back to the old one,
    `BRICKS` boots it and is not heard of again, `SLOW` reads slowly, `BREAKS` loses the connection
    once in the middle of a release's download, `SELDOM` polls ten times less often.
    """

    NORMAL = "Normal"
    FAILS = "Fails"
    REVERTS = "Reverts"
    BRICKS = "Bricks"
    SLOW = "Slow"
    BREAKS = "Breaks"
    SELDOM = "Seldom"


HOPELESS = frozenset({Behaviour.FAILS, Behaviour.REVERTS, Behaviour.BRICKS})
"""Those that never run a release that does them harm."""


class NativeTakes(StrEnum):
    """To which versions native devices update: builds of May and June 2025 to any that differs,
    later ones only to newer ones, so that no rollback reaches them."""

    NEWER = "newer"
    DIFFERENT = "different"


class Counted(StrEnum):
    """What a fleet counts over all its devices."""

    POLLS = "polls"
    OFFERS = "offers"
    DOWNLOADS = "downloads"
    BYTES = "bytes"
    RESUMES = "resumes"
    REPORTS = "reports"
    CORRUPT = "corruptDownloads"
    ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server offers: `key` names the release, `target` is where its bytes are."""

    version: str
    key: str
    target: str
    size: int
    crc32: int
    sha256: str | None = None


@dataclass
class Surroundings:
    """What all devices of a fleet share; spans are seconds.

    `slots` bounds the connections that are open at one time. `harmful` are the versions that
    devices fail, revert or brick at (empty: every one).
    """

    origin: Origin
    random: Random
    slots: Semaphore
    counted: Counter[Counted] = field(default_factory=Counter)
    reboot: float = 0.5
    slow_download: float = 3.0
    failure_code: str = "flash-write"
    harmful: frozenset[str] = frozenset()
    native_reports_version: bool = False
    native_takes: NativeTakes = NativeTakes.NEWER
    last_error: str = ""

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        before: str = "",
    ) -> AsyncIterator[Reply]:
        """`exchanges.exchange` with the server, once a slot is free."""
        async with (
            self.slots,
            exchange(
                self.origin, method, target, headers=headers, content=content, before=before
            ) as reply,
        ):
            yield reply


@dataclass
class SimulatedDevice(ABC):
    """One device. `version` is what it runs now, `reachable` whether its last poll was answered."""

    surroundings: Surroundings
    id: str
    version: str
    model: str | None = None
    behaviour: Behaviour = Behaviour.NORMAL
    state: DeviceState = DeviceState.IDLE
    reachable: bool = True
    _tries: Counter[str] = field(default_factory=Counter)
    _broke_off: set[str] = field(default_factory=set)

    protocol = ""

    async def cycle(self) -> None:
        """One poll and all that follows from it; errors of the exchange are counted, not raised."""
        try:
            self.count(Counted.POLLS)
            offer = await self._poll()
            self.reachable = True
            if offer is not None and self._tries[offer.key] < _MOST_TRIES:
                self.count(Counted.OFFERS)
                await self._update(offer)
        except TransferBroken as error:
            self._fail(error)
            self.state = DeviceState.IDLE
        except ExchangeFailed as error:
            self._fail(error)
            self.reachable = False

    def recover(self) -> None:
        """Back from being bricked, with the version of before: somebody flashed it by cable."""
        self.state = DeviceState.REVERTED

    def count(self, what: Counted, by: int = 1) -> None:
        """Add to the fleet's counters."""
        self.surroundings.counted[what] += by

    def _fail(self, error: ExchangeFailed) -> None:
        self.count(Counted.ERRORS)
        self.surroundings.last_error = str(error)

    @abstractmethod
    async def _poll(self) -> Offer | None: ...

    @abstractmethod
    async def _download(self, offer: Offer) -> bytes: ...

    @abstractmethod
    async def _report(self, offer: Offer, state: str, code: str = "") -> None: ...

    async def _update(self, offer: Offer) -> None:
        self.state = DeviceState.DOWNLOADING
        await self._report(offer, "Downloading")
        image = await self._download(offer)
        self.count(Counted.DOWNLOADS)
        self._tries[offer.key] += 1
        if not _intact(image, offer):
            self.count(Counted.CORRUPT)
            self.state = DeviceState.FAILED
            await self._report(offer, "Failed", "checksum")
            return
        await self._report(offer, "Downloaded")
        fate = self._fate(offer)
        if fate is Behaviour.FAILS:
            self.state = DeviceState.FAILED
            await self._report(offer, "Failed", self.surroundings.failure_code)
            return
        self.state = DeviceState.INSTALLING
        await self._report(offer, "Installing")
        await self._reboot()
        if fate is Behaviour.BRICKS:
            self.state = DeviceState.BRICKED
            return
        if fate is Behaviour.REVERTS:
            # The bootloader falls back after a boot that nobody confirmed; what runs is the old.
            await self._reboot()
            self.state = DeviceState.REVERTED
            return
        try:
            await self._report(offer, "Updated")
        finally:
            self.version = offer.version
            self.state = DeviceState.UPDATED
            self._tries.clear()

    def _fate(self, offer: Offer) -> Behaviour:
        harmful = self.surroundings.harmful
        if self.behaviour in HOPELESS and harmful and offer.version not in harmful:
            return Behaviour.NORMAL
        return self.behaviour

    async def _reboot(self) -> None:
        around = self.surroundings
        await sleep(around.reboot * around.random.uniform(0.5, 1.5))

    async def _read(self, target: str, offer: Offer, have: bytearray) -> None:
        """Append to `have` what is missing of the image."""
        breaks = self.behaviour is Behaviour.BREAKS and offer.key not in self._broke_off
        headers = {"Range": f"bytes={len(have)}-"} if have else {}
        async with self.surroundings.exchange("GET", target, headers=headers) as reply:
            if have and reply.status == 206:
                self.count(Counted.RESUMES)
            elif reply.status == 200:
                have.clear()
            else:
                raise TransferBroken(f"the download was answered with {reply.status}")
            slow = self.behaviour is Behaviour.SLOW
            piece = max(1, offer.size // _PIECES_OF_A_SLOW_READER) if slow else 16 * 1024
            async for data in reply.body(piece):
                have += data
                self.count(Counted.BYTES, len(data))
                if len(have) > LARGEST_FIRMWARE:
                    raise TransferBroken("the firmware is too large for the device")
                if breaks and len(have) >= offer.size // 2:
                    self._broke_off.add(offer.key)
                    raise TransferBroken("the device lost its connection")
                if slow:
                    await sleep(self.surroundings.slow_download / _PIECES_OF_A_SLOW_READER)


class NativeDevice(SimulatedDevice):
    """The original client of `/version` and `/firmware`."""

    protocol = "native"

    async def _poll(self) -> Offer | None:
        query = {"device": self.id}
        if self.surroundings.native_reports_version:
            query |= {"version": self.version} | ({"model": self.model} if self.model else {})
        target = f"{self.surroundings.origin.prefix}/version?{urlencode(query)}"
        # The CRLF before the request is a habit of the deployed client.
        async with self.surroundings.exchange("GET", target, before="\r\n") as reply:
            text = (await reply.small_body()).decode(errors="replace")
            status = reply.status
        if status == 404:
            return None
        lines = text.split("\n")
        if status != 200 or len(lines) < 3 or not (lines[1] + lines[2].strip()).isdecimal():
            raise ExchangeFailed(f"/version was answered with {status} and no release")
        version, crc32, size = lines[0], int(lines[1]), int(lines[2])
        if not self._takes(version):
            return None
        download = f"{self.surroundings.origin.prefix}/firmware?{urlencode({'device': self.id})}"
        return Offer(version, f"{version} {crc32}", download, size, crc32)

    def _takes(self, version: str) -> bool:
        order = versions.compare(version, self.version)
        if order is None or self.surroundings.native_takes is NativeTakes.DIFFERENT:
            return version != self.version
        return order == 1

    async def _download(self, offer: Offer) -> bytes:
        have = bytearray()
        await self._read(offer.target, offer, have)
        return bytes(have)

    async def _report(self, offer: Offer, state: str, code: str = "") -> None:
        """Nothing: the protocol has no reports."""


class JsonDevice(SimulatedDevice):
    """A client of the plain JSON protocol."""

    protocol = "json"

    async def _poll(self) -> Offer | None:
        known = {"device": self.id, "version": self.version}
        answer = await self._post("poll", known | ({"model": self.model} if self.model else {}))
        update = answer.get("update")
        if update is None:
            return None
        try:
            return Offer(
                version=str(update["version"]),
                key=str(update["digest"]),
                target=self.surroundings.origin.path(update["url"]),
                size=int(update["size"]),
                crc32=int(update["crc32"]),
                sha256=str(update["sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ExchangeFailed(f"the poll's answer is no offer: {error!r}") from None

    async def _download(self, offer: Offer) -> bytes:
        have = bytearray()
        for attempt in range(_MOST_RESUMES + 1):
            try:
                await self._read(offer.target, offer, have)
                return bytes(have)
            except TransferBroken:
                if attempt == _MOST_RESUMES or not have:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _report(self, offer: Offer, state: str, code: str = "") -> None:
        self.count(Counted.REPORTS)
        report = {"device": self.id, "release": offer.key, "state": state}
        await self._post("report", report | ({"code": code} if code else {}))

    async def _post(self, name: str, body: dict[str, str]) -> dict[str, Any]:
        origin = self.surroundings.origin
        async with self.surroundings.exchange(
            "POST",
            f"{origin.prefix}/api/v1/{name}",
            headers={"Content-Type": "application/json", "User-Agent": "otaflux-simulator"},
            content=json.dumps(body).encode(),
        ) as reply:
            text = await reply.small_body()
            status = reply.status
        if status != 200:
            raise ExchangeFailed(f"the {name} was answered with {status}")
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ExchangeFailed(f"the {name}'s answer is no JSON object")
        return answer


def _intact(image: bytes, offer: Offer) -> bool:
    return (
        len(image) == offer.size
        and zlib.crc32(image) == offer.crc32
        and offer.sha256 in (None, hashlib.sha256(image).hexdigest())
    )
