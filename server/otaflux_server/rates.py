"""How often somebody may ask: token buckets.

A bucket holds `burst` tokens and gains `rate` of them a second; a request takes its cost or, where
too few are left, nothing. It is kept as the one time at which it is full again (the "theoretical
arrival time" of GCRA, ITU-T I.371), so whoever has one keeps one number.
"""

import ipaddress
from collections.abc import Hashable
from functools import lru_cache
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

POLL_COST: Final = 1.0
PART_COST: Final = 0.25
"""Of a request for bytes: an image comes in hundreds of them, while nobody has to poll so often.
How much is sent is bounded by the downloads that a device may have at one time."""

_IPV6_NETWORK: Final = 64
"""Leading bits of an IPv6 address that count: whoever has one address has all of its /64."""


class Rate:
    """What a bucket gains and holds: `rate` tokens a second, `burst` at most.

    All times are seconds by a monotonic clock.
    """

    __slots__ = ("_seconds", "_span")

    def __init__(self, rate: float, burst: float) -> None:
        self._seconds = 1 / rate
        self._span = burst / rate

    def take(self, full: float, cost: float, now: float) -> tuple[float, float]:
        """Takes `cost` at `now` from a bucket that is full at `full`: when it is full then, and 0.

        Where too few tokens are left nothing is taken, and the second is how long to wait. A cost
        above `burst` never fits, and is waited for like `burst`.
        """
        taken = (full if full > now else now) + cost * self._seconds
        excess = taken - now - self._span
        if excess > 0:
            return full, min(excess, self._span)
        return taken, 0.0


class Rates(Generic[Key]):
    """The buckets of `capacity` keys at one rate.

    Keys beyond are forgotten, those longest unused first: their buckets are full again. A bucket
    that is full is not kept.
    """

    __slots__ = ("_half", "_older", "_rate", "_younger")

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._rate = Rate(rate, burst)
        self._half = max(1, capacity // 2)
        self._younger: dict[Key, float] = {}
        self._older: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)

    def take(self, key: Key, cost: float, now: float) -> float:
        """Takes `cost` tokens; returns 0. Where too few are left, nothing but how long to wait."""
        full, wait = self._rate.take(self._full(key), cost, now)
        if not wait:
            self._younger[key] = full
            if len(self._younger) > self._half:
                self._older, self._younger = self._younger, {}
        return wait

    def wait(self, key: Key, cost: float, now: float) -> float:
        """What `take` would return; takes nothing."""
        return self._rate.take(self._full(key), cost, now)[1]

    def _full(self, key: Key) -> float:
        full = self._younger.get(key)
        return self._older.get(key, 0.0) if full is None else full


@lru_cache(maxsize=16_384)
def network_of(host: str) -> str:
    """Whom the address of a connection stands for: an IPv4 address, or the /64 of an IPv6 one.

    What is no IP address (a socket's path) stands for itself.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
