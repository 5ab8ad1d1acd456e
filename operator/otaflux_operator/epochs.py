"""Under which epoch policies and groups are written: servers refuse what is of an earlier one."""

from collections.abc import Callable

from structlog import get_logger

log = get_logger(__name__)

GREATEST = 2**53 - 1
"""The greatest number with a canonical form (RFC 8785, section 3.2.2.3)."""

BELIEVED = 2**40
"""The greatest that others are followed to: servers prove none, and enough must be left above it.

As a time in seconds it is in the year 36812.
"""


class Epochs:
    """The operator's epoch. `is_leader`: whether it surely may write now.

    What is published under less than `floor` is written again, so that nothing that an operator
    before this one may still write counts.
    """

    def __init__(
        self, current: int = 0, floor: int = 0, is_leader: Callable[[], bool] = lambda: True
    ) -> None:
        self.current = current
        self.floor = floor
        self._is_leader = is_leader
        self._watchers: list[Callable[[], None]] = []

    def subscribe(self, watcher: Callable[[], None]) -> None:
        """Has `watcher` called whenever the floor rises."""
        self._watchers.append(watcher)

    def raise_above(self, epoch: int) -> None:
        """Something of this epoch is, or was, in use: if that is not below ours, ours was too low.

        As after a clock that was ahead, or with servers that knew an operator before.
        """
        if not self.current <= epoch <= max(self.current, BELIEVED) or not self._is_leader():
            return
        self.current = self.floor = epoch + 1
        log.warning("epoch raised: everything is published again", epoch=self.current)
        for watcher in self._watchers:
            watcher()
