"""Files of device tokens as text: one `DeviceToken` a line. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from otaflux_policy.tokens import DeviceToken, InvalidToken


@dataclass(frozen=True)
class Line:
    """A line of a file: the token, or why it is none."""

    number: int
    token: DeviceToken | None
    problem: str = ""


def lines(content: bytes) -> list[Line]:
    """What each line that is not blank says."""
    found = []
    for number, text in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        try:
            found.append(Line(number, DeviceToken.loads(text)))
        except InvalidToken as error:
            found.append(Line(number, None, str(error)))
    return found


def appended(content: bytes, tokens: Iterable[DeviceToken]) -> bytes:
    """The content with these tokens at its end; all other lines as they were."""
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content + "".join(f"{token.dumps()}\n" for token in tokens).encode()


def without(content: bytes, names: Collection[str]) -> bytes:
    """The content without the tokens of these names; all other lines as they were."""
    kept = []
    for text in content.splitlines(keepends=True):
        try:
            gone = DeviceToken.loads(text.decode()).name in names
        except (InvalidToken, UnicodeDecodeError):
            gone = False
        if not gone:
            kept.append(text)
    return b"".join(kept)
