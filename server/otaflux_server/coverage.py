"""Which part of an artifact went to a device, in however many requests."""

from datetime import datetime

MAX_SPANS = 16
"""Separate parts that are kept, the first ones: no client fetches many at a time."""


class Coverage:
    """The bytes of the artifact `digest` (`size` of them) that were sent since `started`."""

    __slots__ = ("_spans", "digest", "size", "started")

    def __init__(self, digest: str, size: int, started: datetime) -> None:
        self.digest = digest
        self.size = size
        self.started = started
        self._spans: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """The bytes from `start` up to, not including, `end` were sent."""
        if start >= end:
            return
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._spans, (start, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self._spans = merged[:MAX_SPANS]

    @property
    def complete(self) -> bool:
        """Whether every byte was sent."""
        return self._spans[:1] == [(0, self.size)]
