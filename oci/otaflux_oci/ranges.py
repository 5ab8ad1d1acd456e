"""Which part of a blob an answer holds (RFC 9110, section 14.4)."""

from __future__ import annotations

import re

import httpx

from .errors import DigestMismatch, RegistryError
from .manifests import Descriptor

_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def first_byte(response: httpx.Response, start: int, descriptor: Descriptor, where: str) -> int:
    """Position in the blob of the first byte of this answer: `start`, or 0 for a whole one.

    Raises RegistryError for another part; DigestMismatch where the size is not the descriptor's.
    """
    size = descriptor.size
    length = response.headers.get("content-length", "")
    if response.status_code == 200:
        if length.isdigit() and int(length[:20]) != size:
            raise DigestMismatch(
                f"{where} should have {size} bytes, but the registry announces {length[:20]}."
            )
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if start == 0 or match is None or int(match[1]) != start:
        raise RegistryError(f"{where}: the registry sent another part than was asked for.")
    if match[3] != "*" and int(match[3]) != size:
        raise DigestMismatch(
            f"{where} should have {size} bytes, but the registry announces {match[3]}."
        )
    return start
