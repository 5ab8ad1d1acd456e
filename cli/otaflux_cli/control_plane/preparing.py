"""Getting every part onto this machine, with progress a person can follow."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TextIO

from .archives import ArchiveUnavailable, install_archive
from .builds import build_part, find_go
from .caches import Cache, default_cache
from .finding import Found, PartMissing, find, only_go
from .pins import ARCHIVED_PARTS, PARTS, Archive, Part, archive_for, platform_name

_NON_TERMINAL_EVERY = 30.0


class Progress:
    """Lines for a log, or one line that renews itself on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._last = 0.0

    def say(self, text: str) -> None:
        clear = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{clear}{text}\n")
        self._stream.flush()

    def building(self, text: str) -> Callable[[float], None]:
        """Announce a build; the result is to be called with the seconds so far."""
        self.say(text)
        self._last = 0.0

        def tick(seconds: float) -> None:
            if self._terminal:
                self._stream.write(f"\r\x1b[K  … {duration(seconds)}")
                self._stream.flush()
            elif seconds - self._last >= _NON_TERMINAL_EVERY:
                self._last = seconds
                self.say(f"  … {duration(seconds)}")

        return tick


def duration(seconds: float) -> str:
    """Whole seconds under two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def missing_parts(
    names: Iterable[str] = tuple(PARTS),
    *,
    cache: Cache | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Part]:
    """Those of ``names`` that are nowhere yet, in the order in which they are built."""
    wanted = set(names)
    if unknown := wanted - set(PARTS):
        raise PartMissing(unknown, f"there is no such part; parts are {' '.join(PARTS)}")
    return [
        part
        for name, part in PARTS.items()
        if name in wanted and find(name, cache=cache, environment=environment) is None
    ]


def build_seconds(parts: Iterable[Part]) -> int:
    """What building these takes on two cores with an empty cache."""
    return sum(part.seconds for part in parts)


def prepare(
    names: Iterable[str] = tuple(PARTS),
    *,
    cache: Cache | None = None,
    archive: Archive | None = None,
    progress: Progress | None = None,
) -> dict[str, Found]:
    """Make sure that every part of ``names`` is there, and say where.

    What is missing comes from the official archive where that has it, else
    from Go. Two preparing processes take turns; the second finds what the
    first made. Raises PartMissing, GoUnusable or BuildFailed.
    """
    names = tuple(names)
    cache = default_cache() if cache is None else cache
    archive = archive_for(platform_name()) if archive is None else archive
    progress = Progress() if progress is None else progress
    if missing_parts(names, cache=cache):
        with cache.lock(
            lambda pid: progress.say(f"waiting: process {pid} is preparing {cache.root}")
        ):
            _install(names, cache, archive, progress)
    found = {name: find(name, cache=cache) for name in names}
    return {name: part for name, part in found.items() if part is not None}


def _install(
    names: tuple[str, ...], cache: Cache, archive: Archive | None, progress: Progress
) -> None:
    cache.sweep()
    missing = missing_parts(names, cache=cache)
    if archive is not None and not only_go() and any(p.name in ARCHIVED_PARTS for p in missing):
        progress.say(f"fetching {archive.url}")
        try:
            install_archive(archive, cache)
        except ArchiveUnavailable as error:
            progress.say(f"not from the official archive: {error}")
        missing = missing_parts(names, cache=cache)
    if not missing:
        return
    go = find_go()
    progress.say(
        f"building {len(missing)} parts with Go into {cache.root}, "
        f"about {duration(build_seconds(missing))} on two cores, once"
    )
    started = time.monotonic()
    for number, part in enumerate(missing, 1):
        part_started = time.monotonic()
        tick = progress.building(
            f"[{number}/{len(missing)}] {part.name} {part.version}, "
            f"normally about {duration(part.seconds)}"
        )
        build_part(part, go, cache, tick)
        now = time.monotonic()
        progress.say(
            f"[{number}/{len(missing)}] {part.name} took {duration(now - part_started)} "
            f"({duration(now - started)} in all)"
        )
