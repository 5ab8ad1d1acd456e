"""Durations as users write them (`1h30m`): Go's notation, in whole hours, minutes and seconds."""

import re
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function, str_schema

from otaflux_operator.resources.rules import Checked, Rule

DURATION_LENGTH = 20
DURATION_PATTERN = (
    r"^([0-9]{1,5}h([0-9]{1,5}m)?([0-9]{1,6}s)?|[0-9]{1,5}m([0-9]{1,6}s)?|[0-9]{1,6}s)$"
)
_PATTERN = re.compile(DURATION_PATTERN)
_PART = re.compile(r"([0-9]+)([hms])")
_SECONDS = {"h": 3600, "m": 60, "s": 1}


class Duration(str):
    """A duration as written; `seconds` is its length."""

    __slots__ = ()

    @property
    def seconds(self) -> int:
        """The length in seconds.

        Raises:
            ValueError: the text is no duration (a validated one always is).
        """
        if not self.valid:
            raise ValueError("a duration is written as hours, minutes and seconds: 1h30m, 45s")
        return sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(self))

    @property
    def valid(self) -> bool:
        """Whether the text is a duration."""
        return _PATTERN.fullmatch(self) is not None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(cls, str_schema(max_length=DURATION_LENGTH))


def _at_least(least: str, examples: str) -> Checked:
    seconds = Duration(least).seconds
    return Checked(
        Rule(
            cel=f"self.matches(r'{DURATION_PATTERN}') && duration(self) >= duration('{least}')",
            message=(
                f"write a duration of at least {least} in hours, minutes and seconds: {examples}"
            ),
            holds=lambda text: text.valid and text.seconds >= seconds,
        )
    )


Span = Annotated[Duration, _at_least("1s", "24h, 1h30m or 45s")]
SpanOrZero = Annotated[Duration, _at_least("0s", "24h, 1h30m or 0s")]
WindowSpan = Annotated[Duration, _at_least("1m", "4h or 1h30m")]
