"""Log lines that strangers cause: at most one a second for each reason, with how often it was."""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Reason = TypeVar("Reason", bound=str)

LINE_SECONDS: Final = 1.0


class Lines(Generic[Reason]):
    """`write(reason, peer, count)` writes a line; what comes within a second of one is counted,
    and makes the next. `peer` is the last one's. On the event loop only."""

    def __init__(self, write: Callable[[Reason, str, int], None]) -> None:
        self._write = write
        self._held: dict[Reason, tuple[str, int]] = {}

    def note(self, reason: Reason, peer: str) -> None:
        """Something happened once more."""
        held = self._held.get(reason)
        if held is None:
            self._now(reason, peer, 1)
        else:
            self._held[reason] = (peer, held[1] + 1)

    def _now(self, reason: Reason, peer: str, count: int) -> None:
        self._write(reason, peer, count)
        self._held[reason] = ("", 0)
        asyncio.get_running_loop().call_later(LINE_SECONDS, self._later, reason)

    def _later(self, reason: Reason) -> None:
        peer, count = self._held.pop(reason)
        if count:
            self._now(reason, peer, count)
