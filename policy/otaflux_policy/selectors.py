"""Which devices a rollout or a ring selects: labels, expressions over labels, name globs."""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from otaflux_policy.models import ContractModel


class Operator(StrEnum):
    """The operators of a Kubernetes label selector requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(ContractModel):
    """One entry of `matchExpressions`, with the meaning that Kubernetes gives it."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` satisfy it; `NotIn` also holds for labels without the key."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


class DeviceSelector(ContractModel):
    """Parts are ANDed, entries of `names` ORed; an empty selector selects every device."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelRequirement, ...] = ()
    names: tuple[str, ...] = ()

    def matches(self, device: str, labels: Mapping[str, str]) -> bool:
        """Whether the device with this id and these labels is selected."""
        return (
            all(labels.get(key) == value for key, value in self.match_labels.items())
            and all(requirement.matches(labels) for requirement in self.match_expressions)
            and (not self.names or any(glob_matches(name, device) for name in self.names))
        )


@lru_cache(maxsize=4096)
def _compiled(glob: str) -> re.Pattern[str]:
    first, *others = (_literal(part) for part in re.split(r"\*+", glob))
    if not others:
        return re.compile(first, re.DOTALL)
    *inner, last = others
    # Atomic: the first place at which a part fits is as good as any later one, so none is tried
    # again. Otherwise a few stars and a long id take for ever.
    middle = "".join(f"(?>.*?{part})" for part in inner)
    return re.compile(f"{first}{middle}.*{last}", re.DOTALL)


def _literal(part: str) -> str:
    return "".join("." if char == "?" else re.escape(char) for char in part)


def is_glob(name: str) -> bool:
    """Whether `name` holds a wildcard, so that it is not an exact device id."""
    return "*" in name or "?" in name


def glob_matches(glob: str, device: str) -> bool:
    """Whether the whole id matches; case-sensitive, `*` and `?` are the only wildcards."""
    return _compiled(glob).fullmatch(device) is not None
