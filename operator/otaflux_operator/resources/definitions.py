"""The CustomResourceDefinitions, made from the models.

What comes out is a structural schema (apiextensions.k8s.io/v1): references inlined, no titles,
an optional field is an absent one, and defaults only where they say something, none in status.
"""

from typing import Any

from pydantic import TypeAdapter

from otaflux_operator.resources.bases import API_GROUP, VERSION
from otaflux_operator.resources.groups import DeviceGroup
from otaflux_operator.resources.manifests import GROUP, ROLLOUT
from otaflux_operator.resources.rollouts import FirmwareRollout
from otaflux_operator.resources.rules import LIST_MAP_KEYS, LIST_TYPE, VALIDATIONS

Schema = dict[str, Any]

_ORDER = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    LIST_TYPE,
    LIST_MAP_KEYS,
    VALIDATIONS,
    "required",
    "properties",
    "additionalProperties",
    "items",
)
_TRANSLATED = {"title", "anyOf", "const", "$defs"}
_TYPE_META: dict[str, Schema] = {
    "apiVersion": {
        "type": "string",
        "description": "Group and version of the object's schema: otaflux.io/v1alpha1.",
    },
    "kind": {"type": "string", "description": "Kind of the object."},
    # Declared so that a rule may name it; the API server knows the rest of the metadata itself.
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
}


def definitions() -> dict[str, Schema]:
    """The CRDs by the name of their file."""
    written = [
        _definition(
            ROLLOUT,
            FirmwareRollout.__name__,
            "firmwarerollouts",
            "fwr",
            [
                _column("Version", ".status.release.version", "Version that is being rolled out"),
                _column("Phase", ".status.phase", "Where the rollout stands"),
                _column("Ring", ".status.ringSummary", "Open or ended rings of all"),
                _column("Updated", ".status.updatedSummary", "Updated devices of open rings"),
                _column("Ready", _condition("Ready", "status"), "Whether the release is served"),
                _column("Reason", _condition("Ready", "reason"), "Why it waits, or is not ready"),
                _column("Stable", ".status.stableRelease.version", "Last completed version", 1),
                _column("Message", ".status.message", "What it does or waits for", 1),
            ],
        ),
        _definition(
            GROUP,
            DeviceGroup.__name__,
            "devicegroups",
            "dg",
            [
                _column("Model", ".spec.model", "Model of devices that report none"),
                _column("Ready", _condition("Ready", "status"), "Whether the group is published"),
                _column("Message", _condition("Ready", "message"), "Why", 1),
            ],
        ),
    ]
    return {f"{API_GROUP}_{crd['spec']['names']['plural']}.yaml": crd for crd in written}


def _definition(
    resource: TypeAdapter[Any], kind: str, plural: str, short_name: str, columns: list[Schema]
) -> Schema:
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    schema = resource.json_schema(by_alias=True, mode="validation")
    root = _structural(schema, schema.get("$defs", {}), defaults=True)
    root["properties"] = {
        **_TYPE_META,
        **{part: root["properties"][part] for part in ("spec", "status")},
    }
    root["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": ["otaflux"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*columns, age],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _column(name: str, path: str, description: str, priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": "string", "jsonPath": path, "description": description}
    return {**column, "priority": priority} if priority else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def _structural(schema: Schema, known: dict[str, Schema], *, defaults: bool) -> Schema:
    schema = _resolved(schema, known)
    if unknown := schema.keys() - {*_ORDER} - _TRANSLATED:
        raise ValueError(f"no CRD knows {sorted(unknown)}")
    written = {key: value for key, value in schema.items() if key in _ORDER}
    for replaced in ("default", "additionalProperties"):
        written.pop(replaced, None)
    if "const" in schema:
        written["enum"] = [schema["const"]]
    if "properties" in schema:
        written["properties"] = {
            name: _structural(field, known, defaults=defaults and name != "status")
            for name, field in schema["properties"].items()
        }
    if "items" in schema:
        written["items"] = _structural(schema["items"], known, defaults=defaults)
    if isinstance(schema.get("additionalProperties"), dict):
        values = _structural(schema["additionalProperties"], known, defaults=defaults)
        written["additionalProperties"] = values
    if defaults and (default := _default(schema.get("default"), written)) is not None:
        written["default"] = default
    return {key: written[key] for key in _ORDER if key in written}


def _resolved(schema: Schema, known: dict[str, Schema]) -> Schema:
    """`schema` without references and without the alternative `null`."""
    while True:
        if reference := schema.get("$ref"):
            base = known[reference.removeprefix("#/$defs/")]
        elif alternatives := schema.get("anyOf"):
            base, absent = alternatives
            if absent != {"type": "null"}:
                raise ValueError("a field may have no alternatives")
        else:
            return schema
        own = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
        schema = {**base, **own}


def _default(value: Any, written: Schema) -> Any:
    """What the API server fills in: nothing where absent means the same.

    An object is filled by the defaults of its own fields.
    """
    if isinstance(value, dict):
        fields = written.get("properties", {}).values()
        return {} if any("default" in field for field in fields) else None
    return None if value in ("", []) else value
