"""What a device gets back, before it becomes bytes on a connection."""

from collections.abc import Sequence
from dataclasses import dataclass

from otaflux_server.artifacts import StoredArtifact
from otaflux_server.refusals import Refusal

Headers = Sequence[tuple[bytes, bytes]]

CLOSE = (b"Connection", b"close")


class Refused(Exception):
    """The request cannot be used. `field` names the part that is wrong, if one is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str = "",
        headers: Headers = (),
        reason: Refusal = Refusal.INVALID_REQUEST,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.field = field
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with a small body, or `length` bytes of an artifact from `start` on.

    `headers` hold everything, the Content-Length too.
    """

    status: int
    headers: Headers
    body: bytes = b""
    artifact: StoredArtifact | None = None
    start: int = 0
    length: int = 0


def small(status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> Reply:
    """A reply with this body and its length."""
    return Reply(
        status,
        (
            (b"Content-Type", content_type),
            (b"Content-Length", b"%d" % len(body)),
            *headers,
        ),
        body,
    )


def text_refusal(refused: Refused) -> Reply:
    """A refusal as plain text.

    The native clients never look at the status: the text begins with a word, so that it does not
    parse as a version, has two line ends and closes the connection, so that none waits for more.
    """
    where = f"{refused.field}: " if refused.field else ""
    body = f"Error: {where}{refused.message}\n\n".encode()
    return small(refused.status, b"text/plain", body, *refused.headers, CLOSE)
