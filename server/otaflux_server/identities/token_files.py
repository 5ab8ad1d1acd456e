"""The files with device tokens: read again when they change, never more than bounds allow.

What cannot be read is not there: no token is ever kept from an earlier reading of a file.
"""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from otaflux_policy.tokens import DeviceToken, InvalidToken
from otaflux_server.stamps import Stamp, stamp_of

log = structlog.get_logger(__name__)

MAX_FILES = 1000
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_TOKENS = 200_000
_MAX_LINE = 256 * 1024
_SHOWN = 10
_SETTLED_NS = 2_000_000_000
_TRIES = 5
_DATA = "..data"


@dataclass(frozen=True, slots=True)
class _Content:
    """A file as it was read. `stamp` None: it may have changed since without a trace."""

    stamp: Stamp | None
    digest: bytes
    tokens: tuple[DeviceToken, ...]
    refused: int


class TokenFiles:
    """A file of tokens, or a folder of them: a Secret as Kubernetes mounts it, too.

    Hidden files (among them Kubernetes' own `..data` and its versions) are none of tokens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents: dict[str, _Content] = {}
        self._problems: dict[str, str] = {}

    def read(self) -> bool:
        """Looks at the files, and reads those that changed; whether `tokens` may be others now."""
        before = self._contents
        for _ in range(_TRIES):
            link = self._link()
            self._contents = self._read_all(before)
            if link == self._link():
                break  # else Kubernetes has put a new version in place meanwhile
        return _digests(self._contents) != _digests(before)

    def tokens(self) -> Iterator[DeviceToken]:
        """All that could be read, at most `MAX_TOKENS`."""
        known = 0
        for content in self._contents.values():
            known += len(content.tokens)
            if known > MAX_TOKENS:
                log.error("too many device tokens: the rest is not known", most=MAX_TOKENS)
                return
            yield from content.tokens

    @property
    def refused(self) -> int:
        """How many lines are refused."""
        return sum(content.refused for content in self._contents.values())

    def _link(self) -> str:
        try:
            return str((self._path / _DATA).readlink())
        except OSError:
            return ""

    def _read_all(self, before: Mapping[str, _Content]) -> dict[str, _Content]:
        found: dict[str, _Content] = {}
        problems: dict[str, str] = {}
        try:
            files = self._files()
            if not files:
                problems[""] = "there are none"
        except OSError as error:
            files = []
            problems[""] = f"cannot be read: {error.strerror}"
        if len(files) > MAX_FILES:
            problems[""] = f"only {MAX_FILES} files are read"
        for file in files[:MAX_FILES]:
            try:
                content = _read(file, before.get(file.name))
            except OSError as error:
                problems[file.name] = f"cannot be read: {error.strerror}"
                continue
            if content is not None:
                found[file.name] = content
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.error("device tokens are missing", file=str(self._path / name), why=problem)
        self._problems = problems
        return found

    def _files(self) -> list[Path]:
        if not stat.S_ISDIR(self._path.stat().st_mode):
            return [self._path]
        return sorted(file for file in self._path.iterdir() if not file.name.startswith("."))


def _digests(contents: Mapping[str, _Content]) -> dict[str, bytes]:
    return {name: content.digest for name, content in contents.items()}


def _read(file: Path, before: _Content | None) -> _Content | None:
    """The file's content; None: it is no file. Raises OSError: it cannot be read."""
    # (without O_NONBLOCK a pipe would keep us for ever)
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        stamp = stamp_of(status)
        if before is not None and before.stamp == stamp:
            return before
        settled = time.time_ns() - max(stamp.modified, stamp.changed) > _SETTLED_NS
        with os.fdopen(handle, "rb", closefd=False) as source:
            data = source.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(handle)
    digest = sha256(data).digest()
    if before is not None and before.digest == digest:
        tokens, refused = before.tokens, before.refused
    elif len(data) > MAX_FILE_BYTES:
        log.error("file of device tokens is too large", file=file.name, most=MAX_FILE_BYTES)
        tokens, refused = (), 1
    else:
        tokens, refused = _parsed(file.name, data)
        log.info("device tokens read", file=file.name, tokens=len(tokens))
    return _Content(stamp if settled else None, digest, tokens, refused)


def _parsed(name: str, data: bytes) -> tuple[tuple[DeviceToken, ...], int]:
    """The tokens of all good lines, and how many others there are."""
    tokens = []
    problems: dict[int, str] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            if len(line) > _MAX_LINE:
                raise InvalidToken(f"the entry is longer than {_MAX_LINE} bytes")
            tokens.append(DeviceToken.loads(line.decode()))
        except UnicodeDecodeError:
            problems[number] = "the entry is not UTF-8"
        except InvalidToken as error:
            problems[number] = str(error)
    if problems:
        numbers = list(problems)
        log.error(
            "lines of device tokens refused",
            file=name,
            lines=numbers[:_SHOWN],
            count=len(numbers),
            first=problems[numbers[0]][:200],
        )
    return tuple(tokens), len(problems)
