"""Manifests in: `parse_*` for what people wrote in files, `read_*` for what an API server holds.

Both check all that the CRDs check, with the same messages for the same rules. `parse_*` also
refuses fields that do not exist; `read_*` ignores them, as the API server's pruning does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json

from otaflux_operator.resources.bases import API_VERSION, Metadata, ResourceModel
from otaflux_operator.resources.groups import DeviceGroup
from otaflux_operator.resources.rollouts import FirmwareRollout
from otaflux_operator.resources.rules import BROKEN_RULES, Checked, Rule
from otaflux_operator.resources.statuses import ConditionType

Resource = TypeVar("Resource", bound=ResourceModel)

NAME_LENGTH = Rule(
    cel="self.metadata.name.size() <= 63",
    message="write a name of at most 63 characters: names of other objects are made from it",
    holds=lambda resource: len(resource.metadata.name) <= 63,
    field="metadata.name",
)
ROLLOUT: TypeAdapter[FirmwareRollout] = TypeAdapter(
    Annotated[FirmwareRollout, Checked(NAME_LENGTH)]
)
GROUP: TypeAdapter[DeviceGroup] = TypeAdapter(Annotated[DeviceGroup, Checked(NAME_LENGTH)])
_CONDITION_TYPES = {str(type_) for type_ in ConditionType}
_METADATA_FIELDS = {info.alias or name for name, info in Metadata.model_fields.items()}


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with one field: `path` as in `spec.rings[1].percent`, and what to write."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidManifest(ValueError):
    """The manifest breaks the schema or a rule; `problems` says where and what to write."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


def parse_rollout(manifest: Mapping[str, Any]) -> FirmwareRollout:
    """The FirmwareRollout that a person wrote; a `status` in it is not looked at.

    Raises:
        InvalidManifest: it breaks the schema or a rule, or has a field that does not exist.
    """
    return _load(ROLLOUT, "FirmwareRollout", _without_status(manifest), "forbid")


def parse_group(manifest: Mapping[str, Any]) -> DeviceGroup:
    """The DeviceGroup that a person wrote; otherwise as `parse_rollout`."""
    return _load(GROUP, "DeviceGroup", _without_status(manifest), "forbid")


def read_rollout(resource: Mapping[str, Any]) -> FirmwareRollout:
    """The FirmwareRollout, with its status, as an API server returned it.

    Raises:
        InvalidManifest: it breaks the schema or a rule (an older or newer CRD let it through).
    """
    return _load(ROLLOUT, "FirmwareRollout", resource, "ignore")


def read_group(resource: Mapping[str, Any]) -> DeviceGroup:
    """The DeviceGroup, with its status; otherwise as `read_rollout`."""
    return _load(GROUP, "DeviceGroup", resource, "ignore")


def _load(
    adapter: TypeAdapter[Resource],
    kind: str,
    resource: Mapping[str, Any],
    extra: Literal["forbid", "ignore"],
) -> Resource:
    content = _without_nulls(dict(resource))
    problems = [
        Problem(field, f"write {expected}")
        for field, expected in (("apiVersion", API_VERSION), ("kind", kind))
        if content.get(field) != expected
    ]
    if problems:
        raise InvalidManifest(problems)
    metadata = content.get("metadata")
    if isinstance(metadata, dict):
        content["metadata"] = {
            key: value for key, value in metadata.items() if key in _METADATA_FIELDS
        }
    if isinstance(status := content.get("status"), dict):
        content["status"] = status | _known_conditions(status)
    try:
        return adapter.validate_json(to_json(content), extra=extra)
    except PydanticSerializationError:
        raise InvalidManifest(
            [Problem("manifest", "write only texts, numbers, true, false, lists and objects")]
        ) from None
    except ValidationError as error:
        raise InvalidManifest(
            [problem for detail in error.errors(include_url=False) for problem in _problems(detail)]
        ) from None


def _without_status(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "status"}


def _known_conditions(status: dict[str, Any]) -> dict[str, Any]:
    """The conditions without those of a newer operator, or of somebody else."""
    conditions = status.get("conditions")
    if not isinstance(conditions, list):
        return {}
    return {
        "conditions": [
            condition
            for condition in conditions
            if not isinstance(condition, dict) or condition.get("type") in _CONDITION_TYPES
        ]
    }


def _without_nulls(value: Any) -> Any:
    """`null` in an object is an absent field, as at the API server."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _problems(detail: ErrorDetails) -> list[Problem]:
    path = ""
    for part in detail["loc"]:
        path = _joined(path, f"[{part}]" if isinstance(part, int) else str(part))
    if detail["type"] == BROKEN_RULES:
        return [
            Problem(_joined(path, field), message) for field, message in detail["ctx"][BROKEN_RULES]
        ]
    return [Problem(path or "manifest", _message(detail))]


def _joined(path: str, part: str) -> str:
    return f"{path}.{part}" if path and part and not part.startswith("[") else f"{path}{part}"


def _message(detail: ErrorDetails) -> str:
    bounds = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return "write a value: the field is required"
        case "extra_forbidden":
            return "remove it or correct its name: there is no such field"
        case "enum" | "literal_error":
            return f"write one of {bounds['expected']}"
        case "string_too_long":
            return f"write at most {bounds['max_length']} characters"
        case "string_too_short":
            return f"write at least {bounds['min_length']} characters"
        case "too_long":
            return f"write at most {bounds['max_length']} entries"
        case "too_short":
            return f"write at least {bounds['min_length']} entries"
        case "greater_than_equal":
            return f"write a number of at least {bounds['ge']}"
        case "less_than_equal":
            return f"write a number of at most {bounds['le']}"
        case "int_type" | "int_from_float":
            return "write a whole number"
        case "string_type":
            return "write a text, in quotes where YAML would read a number, a date or yes and no"
        case "bool_type":
            return "write true or false"
        case "tuple_type" | "list_type":
            return "write a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "write an object of fields and values"
        case _:
            return detail["msg"]
