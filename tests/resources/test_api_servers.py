"""Manifests at the door of a real API server, with the CRDs of `deploy/crds`."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.processes import CommandFailed
from otaflux_operator.resources import InvalidManifest, parse_rollout, read_group, read_rollout
from tests.resources.invalid_manifests import Case, suite
from tests.resources.random_manifests import random_rollouts
from tests.resources.schemas import dotted
from tests.resources.valid_manifests import (
    VALID,
    WITH_STATUS,
    Manifest,
    largest_group,
    largest_rollout,
    rollout_status,
    smallest_group,
    smallest_rollout,
)

CASES = list(suite())
# Said beside a cause, without a field.
NOTES = ("some validation rules were not checked", "Checked value must be of type")
DRY = "?dryRun=All&fieldValidation=Strict"


class Door:
    """One namespace of the API server, as `kubectl --dry-run=server` uses it."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane = control_plane
        self.namespace = namespace
        self._existing: dict[str, Manifest] = {}

    async def create(self, manifest: Manifest, options: str = DRY) -> httpx.Response:
        return await self._control_plane.request("POST", self._path(manifest) + options, manifest)

    async def write_status(self, manifest: Manifest, options: str = DRY) -> httpx.Response:
        """Puts the status of `manifest` onto an object that exists."""
        kind = manifest["kind"]
        if kind not in self._existing:
            existing = {**manifest, "metadata": {"name": "existing"}}
            self._existing[kind] = (await self.create(existing, "")).raise_for_status().json()
        body = {**self._existing[kind], "status": manifest["status"]}
        path = f"{self._path(manifest)}/existing/status{options}"
        return await self._control_plane.request("PUT", path, body)

    def _path(self, manifest: Manifest) -> str:
        plural = f"{manifest['kind'].lower()}s"
        return f"/apis/otaflux.io/v1alpha1/namespaces/{self.namespace}/{plural}"


@pytest.fixture(scope="module")
async def door(control_plane: ControlPlane) -> Door:
    await control_plane.create_namespace("resources")
    return Door(control_plane, "resources")


@pytest.mark.servers
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_invalid_manifest_is_refused_for_one_reason(door: Door, case: Case) -> None:
    write = door.write_status if case.in_status else door.create
    response = await write(case.manifest)
    assert response.status_code == 422, response.text
    causes = [
        cause
        for cause in response.json()["details"]["causes"]
        if cause["field"] != "<nil>" or not any(note in cause["message"] for note in NOTES)
    ]
    fields = {dotted(cause["field"]) for cause in causes}
    assert fields == {dotted(case.field)}, causes
    assert case.message in causes[0]["message"]
    # A value of the wrong type is at the same time none of an enum, and no entry of a list map.
    assert len(causes) == 1 or case.refuses == "type", causes


@pytest.mark.servers
@pytest.mark.parametrize("name", VALID)
async def test_a_valid_manifest_is_accepted(door: Door, name: str) -> None:
    assert (await door.create(VALID[name])).status_code == 201


@pytest.mark.servers
@pytest.mark.parametrize("name", WITH_STATUS)
async def test_a_valid_status_is_accepted(door: Door, name: str) -> None:
    response = await door.write_status(WITH_STATUS[name])
    assert response.status_code == 200
    assert response.json()["status"] == WITH_STATUS[name]["status"]


@pytest.mark.servers
@pytest.mark.parametrize("manifest", [smallest_rollout(), smallest_group()], ids=["fwr", "dg"])
async def test_defaults_are_those_of_the_models(door: Door, manifest: Manifest) -> None:
    read = read_group if manifest["kind"] == "DeviceGroup" else read_rollout
    filled = (await door.create(manifest)).raise_for_status().json()
    ours = read(manifest).spec
    assert read(filled).spec == ours
    assert _without_empty(ours.manifest()) == _without_empty(filled["spec"])


@pytest.mark.servers
async def test_a_default_of_a_part_that_is_there_is_filled_too(door: Door) -> None:
    manifest = smallest_rollout()
    manifest["spec"]["rings"][0]["failure"] = {"maxPercent": 5}
    ring = (await door.create(manifest)).raise_for_status().json()["spec"]["rings"][0]
    assert ring["failure"] == {"maxPercent": 5, "minSample": 3, "action": "Pause"}
    assert ring["success"] == {"minUpdatedPercent": 90, "minDevices": 1}


@pytest.mark.servers
async def test_an_unknown_field_is_refused(door: Door) -> None:
    manifest = smallest_rollout()
    manifest["spec"]["ring"] = []
    response = await door.create(manifest)
    assert response.status_code == 400
    assert 'unknown field "spec.ring"' in response.json()["message"]


@pytest.mark.servers
@pytest.mark.parametrize("manifest", [largest_rollout(), largest_group()], ids=["fwr", "dg"])
async def test_the_largest_manifests_fit(
    control_plane: ControlPlane, namespace: str, manifest: Manifest
) -> None:
    """Into CEL's budget at run time, and into etcd."""
    await control_plane.kubectl(
        *("apply", "--server-side", "-n", namespace, "-f", "-"), input=json.dumps(manifest)
    )


@pytest.mark.servers
async def test_both_doors_agree_on_random_manifests(door: Door) -> None:
    accepted = 0
    for manifest in random_rollouts(seed=1, count=200):
        response = await door.create(manifest)
        assert (response.status_code == 201) == _parses(manifest), (manifest, response.text)
        accepted += response.status_code == 201
    assert 20 < accepted < 180


@pytest.mark.servers
async def test_labels_of_otaflux_may_be_selected_by(door: Door) -> None:
    manifest = smallest_rollout()
    manifest["spec"]["deviceSelector"] = {"matchLabels": {"otaflux.io/device": "kitchen-1"}}
    assert (await door.create(manifest)).status_code == 201


@pytest.mark.servers
async def test_kubectl_shows_what_the_models_describe(
    control_plane: ControlPlane, namespace: str
) -> None:
    # kubectl keeps the resource types that it found before the CRDs came; `get` looks again.
    await control_plane.kubectl("get", "fwr", "-n", namespace)
    explained = await _explained(control_plane, "fwr.spec.rings.soak")
    assert "How long the success condition must hold before the ring is complete." in " ".join(
        explained.split()
    )
    await control_plane.kubectl(
        "apply", "-n", namespace, "-f", "-", input=json.dumps(rollout_status())
    )
    status = json.dumps({"status": rollout_status()["status"]})
    await control_plane.kubectl(
        *("patch", "fwr", "thermostat", "-n", namespace, "--subresource=status"),
        *("--type=merge", "-p", status),
    )
    table = await control_plane.kubectl("get", "fwr", "-n", namespace)
    header, row = (line.split() for line in table.splitlines())
    assert header == ["NAME", "VERSION", "PHASE", "RING", "UPDATED", "READY", "REASON", "AGE"]
    assert row[:-1] == ["thermostat", "1.4.0", "Progressing", "2/4", "12/50", "True", "Served"]


async def _explained(control_plane: ControlPlane, field: str) -> str:
    """What `kubectl explain` says, once the API server publishes the new kind."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await control_plane.kubectl("explain", field)
            except CommandFailed:
                await asyncio.sleep(0.2)


def _parses(manifest: Manifest) -> bool:
    try:
        parse_rollout(manifest)
    except InvalidManifest:
        return False
    return True


def _without_empty(value: Any) -> Any:
    """Where the models have an empty text, list or object, a manifest has nothing."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ("", [], {})}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value
