"""Walks the CRDs' schemas and breaks, in valid manifests, one thing at a time."""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from otaflux_operator.resources.definitions import definitions
from otaflux_operator.resources.rules import LIST_MAP_KEYS, LIST_TYPE, VALIDATIONS

Schema = dict[str, Any]
Manifest = dict[str, Any]
Path = tuple[str | int, ...]

REFUSING = {
    "type",
    "format",
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
    "required",
}
"""The keywords that refuse values, beside rules."""
HARMLESS = {
    "description",
    "default",
    "properties",
    "items",
    "additionalProperties",
    LIST_MAP_KEYS,
    VALIDATIONS,
}


@dataclass(frozen=True)
class Node:
    """A part of a schema; `path` leads to the first such value in a full manifest.

    A list is entered at index 0, a map at the key `*`.
    """

    kind: str
    path: Path
    schema: Schema

    @property
    def name(self) -> str:
        """`FirmwareRollout:spec.rings[0].percent`."""
        return f"{self.kind}:{written(self.path)}"


def roots() -> dict[str, Schema]:
    """The schema of each kind."""
    return {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for crd in definitions().values()
    }


def nodes() -> Iterator[Node]:
    """Every part of every schema but the type's and the object's own metadata."""
    for kind, schema in roots().items():
        yield Node(kind, (), schema)
        for part in ("spec", "status"):
            yield from _below(Node(kind, (part,), schema["properties"][part]))


def _below(node: Node) -> Iterator[Node]:
    yield node
    for name, field in node.schema.get("properties", {}).items():
        yield from _below(Node(node.kind, (*node.path, name), field))
    if "items" in node.schema:
        yield from _below(Node(node.kind, (*node.path, 0), node.schema["items"]))
    if "additionalProperties" in node.schema:
        yield from _below(Node(node.kind, (*node.path, "*"), node.schema["additionalProperties"]))


def written(path: Path) -> str:
    """The path as messages have it: `spec.rings[0].percent`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def dotted(path: str) -> str:
    """`path` with `.key` for `[key]`: an API server has both, by what refuses a map's value."""
    return re.sub(r"\[([^\]\d][^\]]*)\]", r".\1", path)


def concrete(manifest: Any, path: Path) -> Path | None:
    """`path` with the first key of each map, or None where the manifest has no such value."""
    found: list[str | int] = []
    value = manifest
    for part in path:
        if part == "*" and isinstance(value, dict) and value:
            part = next(iter(value))
        try:
            value = value[part]
        except (KeyError, IndexError):
            return None
        found.append(part)
    return tuple(found)


def changed(manifest: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """A copy of `manifest` with the value at `path` replaced by what `change` makes of it."""
    copy = deepcopy(manifest)
    if not path:
        return change(copy)
    target = copy
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = change(target[path[-1]])
    return copy
