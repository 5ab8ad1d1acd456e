"""Who is told to wait: devices that ask too often, and addresses whose requests are refused."""

import math
import time
from collections.abc import Callable
from typing import Final

from otaflux_server.devices import DeviceRecord
from otaflux_server.rates import POLL_COST, Rate, Rates, network_of
from otaflux_server.refusals import Refusal
from otaflux_server.replies import Refused
from otaflux_server.settings import ConnectionSettings

_ADDRESSES: Final = 16_384
_AWAITED: Final = 5
"""Seconds after which a device may try again whose downloads are under way."""
_UNCOUNTED: Final = frozenset(
    {
        Refusal.TOO_MANY_REQUESTS,
        Refusal.TOO_MANY_DOWNLOADS,
        Refusal.ARTIFACT_LOST,
    }
)
"""Refusals that are no fault of the address, or follow from one that was counted."""


class Throttle:
    """Asked for each request: `enter` before anything, while `refusing`, and `ask` once the device
    is known.

    `is_shared`: whether an address stands for many devices, so that what one of them does must not
    count for the others.
    """

    def __init__(
        self,
        limits: ConnectionSettings,
        is_shared: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_downloads = limits.max_downloads_per_device
        self._requests = Rate(limits.requests_per_second, limits.requests_burst)
        self._refused: Rates[str] = Rates(
            limits.refusals_per_second, limits.refusals_burst, _ADDRESSES
        )
        self._is_shared = is_shared
        self._clock = clock
        self.refusing = False
        """Whether `enter` is to be called: some address is over its limit."""
        self._refusing_until = 0.0

    def enter(self, peer: str) -> None:
        """A request of this address came. Raises Refused: 429, too many of its were refused."""
        now = self._clock()
        if now >= self._refusing_until:
            self.refusing = False
            return
        wait = self._refused.wait(network_of(peer), POLL_COST, now)
        if wait:
            raise _wait(wait, Refusal.TOO_MANY_REFUSALS, "too many requests were refused")

    def ask(self, record: DeviceRecord, cost: float) -> None:
        """The device makes a request. Raises Refused: 429, it makes too many."""
        record.rested_at, wait = self._requests.take(record.rested_at, cost, self._clock())
        if wait:
            raise _wait(wait, Refusal.TOO_MANY_REQUESTS, "the device asks too often")

    def download(self, running: int) -> None:
        """A device downloads, `running` of its downloads are under way. Raises Refused: 429."""
        if running >= self._max_downloads:
            raise _wait(
                _AWAITED, Refusal.TOO_MANY_DOWNLOADS, "the device has downloads under way already"
            )

    def refused(self, peer: str, reason: Refusal) -> None:
        """A request of this address was refused."""
        if reason in _UNCOUNTED or self._is_shared(peer):
            return
        network, now = network_of(peer), self._clock()
        self._refused.take(network, POLL_COST, now)
        wait = self._refused.wait(network, POLL_COST, now)
        if wait:
            self.refusing = True
            self._refusing_until = max(self._refusing_until, now + wait)


def _wait(seconds: float, reason: Refusal, why: str) -> Refused:
    shown = max(1, math.ceil(seconds))
    return Refused(
        429,
        f"{why}: wait {shown} s",
        headers=((b"Retry-After", b"%d" % shown),),
        reason=reason,
    )
