"""What a way to know callers of the internal API offers, and why callers are refused."""

from enum import StrEnum
from typing import Protocol


class AccessRefusal(StrEnum):
    """Why a request to the internal API is refused; `MEANINGS` says what each tells a person."""

    NO_TOKEN = "NoToken"
    MALFORMED_HEADER = "MalformedHeader"
    TOKEN_UNKNOWN = "TokenUnknown"
    OTHER_CALLER = "OtherCaller"
    REVIEW_UNAVAILABLE = "ReviewUnavailable"
    TOKEN_FILE_UNREADABLE = "TokenFileUnreadable"
    REQUEST_TOO_LARGE = "RequestTooLarge"
    REQUEST_TOO_SLOW = "RequestTooSlow"
    TOO_MANY_CONNECTIONS = "TooManyConnections"


MEANINGS: dict[AccessRefusal, str] = {
    AccessRefusal.NO_TOKEN: "401: the request has no `Authorization: Bearer TOKEN`.",
    AccessRefusal.MALFORMED_HEADER: "401: `Authorization` came twice, or with another scheme.",
    AccessRefusal.TOKEN_UNKNOWN: (
        "401: the token is not the shared one, or the API server does not take it: it expired, or "
        "is for another audience than `internal.audience`."
    ),
    AccessRefusal.OTHER_CALLER: (
        "403: the token is that of somebody who is none of `internal.service_accounts`."
    ),
    AccessRefusal.REVIEW_UNAVAILABLE: (
        "503: the API server cannot be asked whether the token is good (TokenReview): it does not "
        "answer, or the server's ServiceAccount may not `create tokenreviews`."
    ),
    AccessRefusal.TOKEN_FILE_UNREADABLE: (
        "503: `internal.token_file` cannot be read, or holds no token of 16 characters or more."
    ),
    AccessRefusal.REQUEST_TOO_LARGE: "413: the request is larger than 64 KiB.",
    AccessRefusal.REQUEST_TOO_SLOW: (
        "408: the request did not come within a minute, or its response was not taken within one."
    ),
    AccessRefusal.TOO_MANY_CONNECTIONS: "503: 1000 connections to the internal port are open.",
}

STATUS: dict[AccessRefusal, int] = {
    AccessRefusal.NO_TOKEN: 401,
    AccessRefusal.MALFORMED_HEADER: 401,
    AccessRefusal.TOKEN_UNKNOWN: 401,
    AccessRefusal.OTHER_CALLER: 403,
    AccessRefusal.REVIEW_UNAVAILABLE: 503,
    AccessRefusal.TOKEN_FILE_UNREADABLE: 503,
    AccessRefusal.REQUEST_TOO_LARGE: 413,
    AccessRefusal.REQUEST_TOO_SLOW: 408,
    AccessRefusal.TOO_MANY_CONNECTIONS: 503,
}


class CallerRefused(Exception):
    """The caller is not let in; the text, which holds no secret, is for the caller."""

    def __init__(self, reason: AccessRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Callers(Protocol):
    """Knows callers by their tokens."""

    async def check(self, token: str) -> None:
        """Returns if the caller with this token may use the API. Raises CallerRefused."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...
