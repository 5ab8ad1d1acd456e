"""Manifests at the door without an API server: `parse_*` and `read_*`."""

from typing import Any

import pytest

from otaflux_operator.resources import (
    DeviceGroup,
    FirmwareRollout,
    InvalidManifest,
    parse_group,
    parse_rollout,
    read_group,
    read_rollout,
)
from tests.resources.invalid_manifests import Case, several, suite
from tests.resources.schemas import dotted
from tests.resources.valid_manifests import (
    VALID,
    WITH_STATUS,
    group_status,
    rollout,
    rollout_status,
    smallest_rollout,
)

CASES = [case for case in suite() if not case.in_status]

_FILLED = {"artifact", "deviceSelector", "rings", "windows"}
"""What has fields of its own with defaults."""


def parse(manifest: dict[str, Any]) -> FirmwareRollout | DeviceGroup:
    return parse_group(manifest) if manifest["kind"] == "DeviceGroup" else parse_rollout(manifest)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_invalid_manifest_is_refused_for_one_reason(case: Case) -> None:
    with pytest.raises(InvalidManifest) as refusal:
        parse(case.manifest)
    (problem,) = refusal.value.problems
    assert dotted(problem.path) == dotted(case.field)
    if case.by_rule:
        assert problem.message == case.message
    else:
        assert problem.message.startswith(("write ", "Duplicate value"))


@pytest.mark.parametrize("name", VALID)
def test_a_valid_manifest_is_accepted(name: str) -> None:
    written = VALID[name]["spec"]
    parsed = parse(VALID[name]).manifest()["spec"]
    for field in written.keys() - _FILLED:
        assert parsed[field] == written[field]


@pytest.mark.parametrize("name", VALID)
def test_what_was_parsed_reads_back(name: str) -> None:
    parsed = parse(VALID[name])
    assert parse(parsed.manifest()) == parsed


def test_a_status_reads_back() -> None:
    assert read_rollout(rollout_status()).status.manifest() == rollout_status()["status"]
    assert read_group(group_status()).status.manifest() == group_status()["status"]


def test_every_problem_is_listed_with_its_place() -> None:
    with pytest.raises(InvalidManifest) as refusal:
        parse_rollout(several())
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "spec.artifact.tag",
        "spec.rings[0].percent",
        "spec.deviceTimeout",
    ]
    assert lines[1] == "spec.rings[0].percent: write a number of at most 100"


def test_all_rules_that_a_value_breaks_are_listed() -> None:
    manifest = rollout()
    manifest["spec"]["activeWithin"] = "1h"
    manifest["spec"]["approvals"][0]["ring"] = "nobody"
    with pytest.raises(InvalidManifest) as refusal:
        parse_rollout(manifest)
    paths = [problem.path for problem in refusal.value.problems]
    assert paths == ["spec.approvals", "spec.activeWithin"]


def test_an_unknown_field_is_refused_in_a_file_and_ignored_from_an_api_server() -> None:
    manifest = rollout()
    manifest["spec"]["rings"][1]["percentage"] = 10
    with pytest.raises(InvalidManifest, match=r"spec\.rings\[1\]\.percentage: remove it"):
        parse_rollout(manifest)
    assert read_rollout(manifest) == read_rollout(rollout())


def test_other_metadata_is_ignored() -> None:
    manifest = smallest_rollout()
    manifest["metadata"] |= {"managedFields": [{}], "creationTimestamp": None, "selfLink": "x"}
    assert parse_rollout(manifest) == parse_rollout(smallest_rollout())


def test_null_is_an_absent_field() -> None:
    manifest = smallest_rollout()
    manifest["spec"] |= {"state": None, "verify": None, "retryToken": None}
    manifest["spec"]["rings"][0]["percent"] = None
    assert parse_rollout(manifest) == parse_rollout(smallest_rollout())


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"kind": "DeviceGroup"}, "kind"),
        ({"apiVersion": "otaflux.io/v1"}, "apiVersion"),
        ({"apiVersion": None}, "apiVersion"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": {"name": "Thermostat"}}, "metadata.name"),
        ({"metadata": "thermostat"}, "metadata"),
        ({"spec": None}, "spec"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_is_no_such_object_is_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidManifest) as refusal:
        parse_rollout({**smallest_rollout(), **change})
    assert [problem.path for problem in refusal.value.problems] == [path]


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="write only texts, numbers"):
        parse_rollout({**smallest_rollout(), "spec": object()})


def test_a_message_longer_than_its_bound_is_cut_not_refused() -> None:
    manifest = rollout_status()
    manifest["status"]["message"] = "a" * 5000
    message = read_rollout(manifest).status.message
    assert len(message) == 1024
    assert message.endswith("a…")


def test_a_file_cannot_set_a_status() -> None:
    for manifest in WITH_STATUS.values():
        assert parse(manifest) == parse({**manifest, "status": {}})


def test_a_selector_becomes_that_of_the_policy() -> None:
    selector = parse_rollout(rollout()).spec.device_selector.contract()
    labels = {"ring": "canary", "example.com/site": "berlin", "beta": "yes"}
    assert selector.matches("lab-7", labels)
    assert not selector.matches("office-7", labels)
    assert not selector.matches("lab-7", {**labels, "ring": "early"})
