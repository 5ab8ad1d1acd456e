"""What a row of the benchmark finds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


class NotMeasured(Exception):
    """A row cannot be measured here; the message says what is missing or went wrong."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    `beside` says what it is compared with, `values` the numbers behind the texts, each named with
    its unit.
    """

    row: str
    measured: str
    text: str
    beside: str = ""
    aim: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one value."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def ratio(values: Sequence[float], beside: Sequence[float]) -> float:
    """The median of the ratios of what was measured in turn."""
    return median(one / other for one, other in zip(values, beside, strict=True))


def progress(text: str) -> None:
    """Says on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)
