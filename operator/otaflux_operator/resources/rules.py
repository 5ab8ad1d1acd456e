"""Rules with one message for both doors: CEL at the API server, Python everywhere else.

`Annotated[str, Checked(Rule(...))]`: Pydantic evaluates `holds`, the CRD gets the entry of
`x-kubernetes-validations`. `tests/resources` sends one suite of invalid manifests through both.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_MAP_KEYS = "x-kubernetes-list-map-keys"
BROKEN_RULES = "broken_rules"
"""The type of the Pydantic error of broken rules; its context holds them under the same key."""


@dataclass(frozen=True)
class Rule:
    """`cel` over `self` and `holds` over the validated Python value, which mean the same.

    `message` says what to write instead; `field` is the field of the value that it is about
    (camelCase; empty: the value itself).
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""

    @property
    def validation(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        place = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.cel, "message": self.message, **place}


class Checked:
    """The annotation that holds a value to rules; all that it breaks are reported together."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        written = handler(schema)
        mine = [rule.validation for rule in self.rules]
        return {**written, VALIDATIONS: [*written.get(VALIDATIONS, ()), *mine]}

    def _check(self, value: Any) -> Any:
        broken = [(rule.field, rule.message) for rule in self.rules if not rule.holds(value)]
        raise_broken(broken)
        return value


def text_format(pattern: str, message: str) -> Checked:
    """Holds a text to `pattern`: anchored, and written in what RE2 and Python have in common."""
    compiled = re.compile(pattern)
    return Checked(
        Rule(
            cel=f"self.matches(r'{pattern}')",
            message=message,
            holds=lambda text: compiled.fullmatch(text) is not None,
        )
    )


class Keyed:
    """The annotation of a list whose entries differ in `keys` (none: as a whole).

    It is a list map (or set) to the API server, which merges it by those keys and refuses a
    duplicate with the message that is repeated here.
    """

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        written = handler(schema)
        if not self.keys:
            return {**written, LIST_TYPE: "set"}
        return {**written, LIST_TYPE: "map", LIST_MAP_KEYS: list(self.keys)}

    def _check(self, entries: Any) -> Any:
        seen: set[str] = set()
        duplicates = []
        for index, entry in enumerate(entries):
            identity = self._identity(entry)
            if identity in seen:
                duplicates.append((f"[{index}]", f"Duplicate value: {identity}"))
            seen.add(identity)
        raise_broken(duplicates)
        return entries

    def _identity(self, entry: Any) -> str:
        if not self.keys:
            return json.dumps(entry)
        return json.dumps(
            {key: getattr(entry, key) for key in sorted(self.keys)}, separators=(",", ":")
        )


def raise_broken(broken: list[tuple[str, str]]) -> None:
    """Raises the Pydantic error of broken rules, given as (field, message), if there are any."""
    if broken:
        text = "; ".join(message for _, message in broken)
        raise PydanticCustomError(BROKEN_RULES, "{text}", {"text": text, BROKEN_RULES: broken})
