"""Log lines that stay lines, for all programs, whatever texts they tell of."""

from collections.abc import MutableMapping
from typing import Any, Final

_OF_LINES: Final = frozenset({"exception", "stack"})
"""Fields of an event that have several lines by nature."""


def one_line(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escapes in texts what ends a line, or what a terminal obeys; JSON does so of itself.

    A processor of structlog, the one before what renders for people. The lines of a traceback
    stay, set in, so that none of them looks like another entry.
    """
    return {
        key: _text(key, value) if isinstance(value, str) else value for key, value in event.items()
    }


def _text(key: str, value: str) -> str:
    if key in _OF_LINES:
        return "\n".join(f"    {escaped(line)}" for line in value.split("\n"))
    return escaped(value)


def escaped(text: str) -> str:
    """The text with Python's escapes for characters that are not printable (`str.isprintable`)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
