"""One token that all callers share, in a file."""

import hmac
from hashlib import sha256
from pathlib import Path

import structlog

from otaflux_server.access.callers import AccessRefusal, CallerRefused

log = structlog.get_logger(__name__)

_LEAST = 16
_MOST = 8192


class SharedToken:
    """`Callers` that have the token in the file, which is looked at for each request.

    Without one in it nobody is let in.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failure = ""

    async def check(self, token: str) -> None:
        """Compares in a time that tells nothing of the token."""
        wanted = self._read()
        if not hmac.compare_digest(sha256(token.encode()).digest(), sha256(wanted).digest()):
            raise CallerRefused(AccessRefusal.TOKEN_UNKNOWN, "the token is not the shared one")

    async def close(self) -> None:
        """(holds nothing)"""

    def _read(self) -> bytes:
        try:
            with self._file.open("rb") as file:
                found = file.read(_MOST + 1).strip()
            failure = "" if _LEAST <= len(found) <= _MOST else "it holds no token"
        except OSError as error:
            found, failure = b"", error.strerror or type(error).__name__
        if failure and failure != self._failure:
            log.error("the internal API's token cannot be read", file=str(self._file), why=failure)
        self._failure = failure
        if failure:
            raise CallerRefused(
                AccessRefusal.TOKEN_FILE_UNREADABLE,
                "the server cannot read its token: see its log, and OTAFLUX_INTERNAL__TOKEN_FILE",
            )
        return found
