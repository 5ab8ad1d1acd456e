"""`WWW-Authenticate` (RFC 9110, section 11.6.1): several challenges, quoted commas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SEPARATORS = re.compile(r"[ \t,]*")
# A value without quotes may hold more than a token: some registries send bare URLs.
_PARAM = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))[ \t]*(?=,|\Z)', re.DOTALL
)
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|\Z)")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|\Z)")
_MAX_LENGTH = 8192


@dataclass(frozen=True)
class Challenge:
    """One challenge: scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all header lines, as far as they can be read. Never raises."""
    return [challenge for header in headers for challenge in _parse(header[:_MAX_LENGTH])]


def _parse(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while True:
        position = _end(_SEPARATORS.match(header, position), position)
        if position >= len(header):
            break
        parameter = _PARAM.match(header, position) if found else None
        if parameter is not None:
            name, quoted, bare = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted is not None else bare
            # The first one counts, as for every parser in use.
            found[-1][1].setdefault(name.lower(), value)
            position = parameter.end()
            continue
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        found.append((scheme.group(1).lower(), {}))
        position = scheme.end()
        if _PARAM.match(header, position) is None:
            position = _end(_TOKEN68.match(header, position), position)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _end(match: re.Match[str] | None, otherwise: int) -> int:
    return otherwise if match is None else match.end()
