"""However long a rollout lives, its status stays far below what etcd and API servers take."""

import json
from typing import Any

from otaflux_operator.resources import read_rollout
from otaflux_operator.resources.definitions import definitions
from tests.operator.worlds import manifest

LIMIT = 320 * 1024
"""Bytes; an object may have 1.5 MiB (etcd)."""

TIME = "2026-03-01T12:00:00Z"
GREATEST = 2**53


def largest(schema: dict[str, Any]) -> Any:
    """A value of the greatest size that the schema admits."""
    if "enum" in schema:
        return max(schema["enum"], key=len)
    match schema["type"]:
        case "object":
            return {name: largest(known) for name, known in schema["properties"].items()}
        case "array":
            return [largest(schema["items"])] * schema["maxItems"]
        case "integer":
            return GREATEST
        case "boolean":
            return False
    if schema.get("format") == "date-time":
        return TIME
    return "x" * schema["maxLength"]


def test_the_largest_status_is_bounded() -> None:
    (crd,) = [crd for name, crd in definitions().items() if "rollout" in name]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    status = largest(schema["properties"]["status"])
    assert (len(status["rings"]), len(status["history"])) == (20, 50)
    size = len(json.dumps(status, separators=(",", ":")).encode())
    # What comes from elsewhere may take four bytes a character; history is ours, in ASCII.
    texts = [status["message"], *(known["message"] for known in status["conditions"])]
    assert size + 3 * sum(map(len, texts)) < LIMIT


def test_a_text_that_is_too_long_is_cut_and_fails_no_write() -> None:
    rollout = read_rollout(manifest(status={"message": "x" * 5000, "phase": "Pending"}))
    assert len(rollout.status.message) == 1024
