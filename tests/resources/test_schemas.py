"""The CRDs as files: fresh, complete, bounded, and small enough to apply."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from otaflux_operator.resources.definitions import definitions
from otaflux_operator.resources.rules import VALIDATIONS
from tests.resources.invalid_manifests import suite
from tests.resources.schemas import HARMLESS, REFUSING, Node, nodes

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "deploy" / "crds"
NODES = list(nodes())


def test_the_generated_files_are_fresh() -> None:
    check = subprocess.run(
        [sys.executable, "scripts/generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_folder_holds_the_crds_and_nothing_else() -> None:
    assert {file.name: yaml.safe_load(file.read_text()) for file in CRDS.iterdir()} == definitions()


@pytest.mark.parametrize("file", sorted(CRDS.iterdir()), ids=lambda file: file.name)
def test_a_crd_fits_the_annotation_of_client_side_apply(file: Path) -> None:
    assert file.stat().st_size < 128 * 1024


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_a_field_is_described_and_bounded(node: Node) -> None:
    schema = node.schema
    assert schema.keys() <= REFUSING | HARMLESS
    if node.path and isinstance(node.path[-1], str) and node.path[-1] != "*":
        assert schema["description"].endswith(".")
        assert schema["description"][0].isupper()
    match schema["type"]:
        case "string":
            assert schema.keys() & {"maxLength", "enum", "format"}
        case "array":
            assert "maxItems" in schema
        case "object":
            assert "properties" in schema or "maxProperties" in schema
        case "integer":
            assert "minimum" in schema
        case other:
            assert other == "boolean"


def test_every_message_says_what_to_do_instead() -> None:
    for node in NODES:
        for rule in node.schema.get(VALIDATIONS, ()):
            assert rule["message"].startswith(("write ", "remove "))


def test_no_status_field_has_a_default() -> None:
    assert not [
        node.name for node in NODES if node.path[:1] == ("status",) and "default" in node.schema
    ]


def test_the_suite_leaves_nothing_out_that_can_refuse_a_value() -> None:
    cases = Counter((case.node, case.refuses) for case in suite())
    for node in NODES:
        keywords = REFUSING & node.schema.keys()
        if not node.path:
            keywords -= {"type"}
        rules = {rule["message"] for rule in node.schema.get(VALIDATIONS, ())}
        missing = [each for each in keywords | rules if not cases[node.name, each]]
        assert not missing, node.name
