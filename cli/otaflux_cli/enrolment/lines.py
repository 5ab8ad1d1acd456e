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
    # As the server does; `splitlines` would also end a line within a name.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(Line(number, DeviceToken.loads(line.decode())))
        except UnicodeDecodeError:
            found.append(Line(number, None, "the entry is not UTF-8"))
        except InvalidToken as error:
            found.append(Line(number, None, str(error)))
    return found


def names_in(content: bytes) -> set[str]:
    """The names of all tokens."""
    return {line.token.name for line in lines(content) if line.token is not None}


def appended(content: bytes, tokens: Iterable[DeviceToken]) -> bytes:
    """The content with these tokens at its end; all other lines as they were."""
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content + "".join(f"{token.dumps()}\n" for token in tokens).encode()


def without(content: bytes, names: Collection[str]) -> bytes:
    """The content without the tokens of these names; all other lines as they were."""
    kept = []
    for line in content.split(b"\n"):
        try:
            gone = DeviceToken.loads(line.decode()).name in names
        except (InvalidToken, UnicodeDecodeError):
            gone = False
        if not gone:
            kept.append(line)
    return b"\n".join(kept)
