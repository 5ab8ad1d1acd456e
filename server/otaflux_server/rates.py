"""How often somebody may ask: token buckets in a bounded table, pure but for what they remember.

A bucket holds `burst` tokens and gains `rate` of them a second; a request takes its cost or, where
too few are left, nothing. It is kept as the one time at which it is full again (the "theoretical
arrival time" of GCRA, ITU-T I.371), so a key costs one number, and one that is full is not kept.
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


class Rates(Generic[Key]):
    """The buckets of all keys: `rate` tokens a second, `burst` at most, for `capacity` keys.

    Keys beyond are forgotten, those longest unused first: their buckets are full again.
    """

    __slots__ = ("_burst", "_half", "_older", "_seconds", "_younger")

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._seconds = 1 / rate
        self._burst = burst / rate
        self._half = max(1, capacity // 2)
        self._younger: dict[Key, float] = {}
        self._older: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)

    def take(self, key: Key, cost: float, now: float) -> float:
        """Takes `cost` tokens at `now` (seconds, monotonic).

        Returns 0 where there were enough; else nothing is taken, and it is the seconds until there
        are. A cost above `burst` never fits, and is waited for like `burst`.
        """
        # Not by way of `_full` and `min`: this is asked for every poll.
        younger = self._younger
        full = younger.get(key)
        if full is None:
            full = self._older.get(key, now)
        if full < now:
            full = now
        full += cost * self._seconds
        excess = full - now - self._burst
        if excess > 0:
            return excess if excess < self._burst else self._burst
        younger[key] = full
        if len(younger) > self._half:
            self._older, self._younger = younger, {}
        return 0.0

    def wait(self, key: Key, cost: float, now: float) -> float:
        """What `take` would return; takes nothing."""
        excess = self._full(key, now) + cost * self._seconds - now - self._burst
        return min(excess, self._burst) if excess > 0 else 0.0

    def _full(self, key: Key, now: float) -> float:
        full = self._younger.get(key)
        if full is None:
            full = self._older.get(key, now)
        return full if full > now else now


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
