"""Which bytes of an artifact a request asks for (RFC 9110, sections 13 and 14)."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)
_DIGITS = 18
"""More digits than this are beyond any size; they are not even converted."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes from `start` on."""

    start: int
    length: int

    @property
    def last(self) -> int:
        """The position of the last byte."""
        return self.start + self.length - 1


class Unsatisfiable(Exception):
    """No byte of the range exists: 416 with `Content-Range: bytes */<size>`."""


def parse_range(header: str, size: int) -> Span | None:
    """The one range that is asked for, of `size` bytes in all; None: the header is ignored.

    Ignored, and answered with everything, as section 14.2 permits: other units, what is not a
    range, and several ranges at once (no update client sends them, and a multipart body has no
    length that a small client could use). The last position is clamped to the size.

    Raises:
        Unsatisfiable: the first position is past the end, or a suffix of no bytes.
    """
    found = _RANGE.fullmatch(header)
    if found is None or found[1] == found[2] == "":
        return None
    first, last = (_position(text) if text else None for text in found.groups())
    if first is None:
        assert last is not None
        if last == 0 or size == 0:
            raise Unsatisfiable
        return Span(max(size - last, 0), min(last, size))
    if last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    end = size if last is None else min(last + 1, size)
    return Span(first, end - first)


def matches(header: str, etag: str) -> bool:
    """Whether `If-None-Match` names `etag` (weak comparison) or any (`*`)."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or tags == ["*"]


def _position(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else int("9" * (_DIGITS + 1))
