"""Transfers of artifacts that run now, so that they can be cut."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime

from otaflux_policy.attempts import AttemptRef
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.devices import DeviceKey, DeviceRecord


class Cut(Exception):
    """The transfer was cut: what began it is withdrawn."""


class Delivery:
    """One response with bytes of an artifact: `sent` of them so far, from `start` on.

    It belongs to the attempt `ref` at the release `version`. `began` is called with the first
    byte. `asked` is when the device asked for it.
    """

    __slots__ = (
        "_began",
        "_scope",
        "artifact",
        "asked",
        "cut",
        "record",
        "ref",
        "rollout",
        "sent",
        "start",
        "version",
    )

    def __init__(
        self,
        record: DeviceRecord,
        rollout: str,
        ref: AttemptRef,
        version: str,
        artifact: StoredArtifact,
        start: int,
        asked: datetime,
        began: "Callable[[Delivery], None]",
    ) -> None:
        self.record = record
        self.rollout = rollout
        self.ref = ref
        self.version = version
        self.artifact = artifact
        self.start = start
        self.asked = asked
        self.sent = 0
        self.cut = False
        self._began = began
        self._scope: asyncio.Timeout | None = None

    def count(self, size: int) -> None:
        """`size` further bytes went to the connection."""
        if not self.sent and size:
            self.sent += size
            self._began(self)
        else:
            self.sent += size

    def end(self) -> None:
        """Cuts the transfer, also where it waits for a reader that takes nothing."""
        self.cut = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def attach(self, scope: asyncio.Timeout) -> None:
        """`scope` is what `end` ends."""
        self._scope = scope


class Deliveries:
    """All that run."""

    def __init__(self) -> None:
        self._running: set[Delivery] = set()
        self._of: Counter[DeviceKey] = Counter()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self._running))

    def of(self, device: DeviceKey) -> int:
        """How many of the device run."""
        return self._of[device]

    @asynccontextmanager
    async def running(self, delivery: Delivery) -> AsyncIterator[None]:
        """The delivery goes on within the block. Raises Cut from it."""
        key = delivery.record.key
        self._running.add(delivery)
        self._of[key] += 1
        try:
            async with asyncio.timeout(None) as scope:
                delivery.attach(scope)
                yield
        except TimeoutError:
            if not delivery.cut:
                raise
            raise Cut from None
        finally:
            self._running.discard(delivery)
            self._of[key] -= 1
            if not self._of[key]:
                del self._of[key]
