"""`explain`, `preview` and `devices` against a server that devices polled."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from otaflux_cli.inspection.listings import age
from otaflux_cli.standalone.running import Standalone
from tests.cli.answering_servers import answering_server
from tests.cli.commands import otaflux_async, otaflux_here
from tests.cli.places import Place
from tests.cli.waiting import until

MANIFEST = """
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {name: thermostat}
spec:
  artifact: {repository: localhost/firmware, tag: 1.3.2}
  compatibility: {models: [thermostat-v2]}
  deviceSelector: {}
  rings:
    - name: canary
      deviceSelector: {matchLabels: {ring: canary}}
      maxConcurrent: 5
      failure: {maxPercent: 20, minSample: 3}
    - {name: fleet, gate: Approval}
---
apiVersion: otaflux.io/v1alpha1
kind: DeviceGroup
metadata: {name: canaries}
spec: {names: [kitchen-1, kitchen-2], labels: {ring: canary}, model: thermostat-v2}
"""
HOMES = [f"home-{number:02}" for number in range(12)]


async def poll(running: Standalone, device: str, **said: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{running.device_url}/api/v1/poll", json={"device": device, **said}
        )
        told: dict[str, Any] = answer.raise_for_status().json()
        return told


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standalone]:
    place = Place(tmp_path_factory.mktemp("inspection"))
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    async with place.running() as running:

        async def offered() -> bool:
            answer = await poll(running, "kitchen-1", version="1.3.0")
            return bool(answer["reason"] == "Offered")

        await until(offered)
        for _ in range(2):
            await poll(running, "kitchen-2", version="1.3.2")
            await poll(running, "other", version="1.0.0", model="lamp-v1")
            for device in HOMES:
                await poll(running, device, version="1.3.0", model="thermostat-v2")
        yield running


async def told(running: Standalone, *arguments: str) -> Any:
    ended = await otaflux_async(*arguments, "--server", running.internal_url, "-o", "json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def table(running: Standalone, *arguments: str) -> str:
    ended = await otaflux_async(*arguments, "--server", running.internal_url)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def test_explain_says_the_decision_first_and_then_every_rule(running: Standalone) -> None:
    lines = (await table(running, "explain", "kitchen-1")).splitlines()
    assert lines[0].startswith("default/kitchen-1 is offered 1.3.2 (Offered): ")
    text = "\n".join(lines)
    for line in ("Rollout      thermostat, run 1", "Ring         canary", "Version      1.3.0"):
        assert line in text
    assert any("maxConcurrent 5, free 4" in line and " yes " in line for line in lines), text
    assert any("fleet: open" in line and " no " in line for line in lines), text
    assert any("breaker is closed" in line and " yes " in line for line in lines), text


async def test_explain_as_json_is_the_answer_of_the_server(running: Standalone) -> None:
    explained = await told(running, "explain", "home-00")
    assert (explained["reason"], explained["ring"]) == ("RingClosed", "fleet")
    assert explained["seen"] is True
    assert explained["waitsFor"] == "ring fleet to open"


async def test_explain_tries_what_a_device_does_not_run(running: Standalone) -> None:
    unknown = await told(running, "explain", "new-1", "--model", "thermostat-v2")
    assert (unknown["seen"], unknown["ring"]) == (False, "fleet")
    lamp = await table(running, "explain", "new-1", "--model", "lamp-v1")
    assert lamp.startswith("default/new-1 gets no update (Incompatible): ")
    assert "lamp-v1 is not one of ['thermostat-v2']" in lamp, lamp
    elsewhere = await told(running, "explain", "kitchen-1", "-n", "tenant-a")
    assert (elsewhere["reason"], elsewhere["rollouts"]) == ("NoMatch", [])


async def test_preview_names_who_each_ring_takes_and_who_is_left_out(running: Standalone) -> None:
    previewed = await told(running, "preview", "thermostat", "--limit", "3")
    rings = {ring["name"]: ring for ring in previewed["rings"]}
    assert rings["canary"]["devices"] == 2
    assert rings["fleet"]["devices"] == len(HOMES)
    assert rings["fleet"]["first"] == HOMES[:3]
    text = await table(running, "preview", "thermostat", "--limit", "3")
    assert text.startswith("default/thermostat: what each ring takes of 1.3.2")
    assert "home-00, home-01, home-02 and 9 more" in text
    assert "not admitted: " in text
    other = await told(running, "preview", "thermostat", "--digest", "sha256:" + "0" * 64)
    assert other["digest"] == "sha256:" + "0" * 64


async def test_devices_are_filtered_and_paged_through_completely(
    running: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(found: Any) -> list[str]:
        return [device["device"] for device in found]

    everyone = sorted([*HOMES, "kitchen-1", "kitchen-2", "other"])
    assert names(await told(running, "devices")) == everyone
    assert names(await told(running, "devices", "--ring", "canary")) == ["kitchen-1", "kitchen-2"]
    assert names(await told(running, "devices", "--state", "updated")) == ["kitchen-2"]
    assert names(await told(running, "devices", "--reason", "Incompatible")) == ["other"]
    assert names(await told(running, "devices", "--version", "1.0.0")) == ["other"]
    assert names(await told(running, "devices", "--model", "lamp-v1")) == ["other"]
    assert names(await told(running, "devices", "--group", "canaries", "--seen-within", "1h")) == [
        "kitchen-1",
        "kitchen-2",
    ]
    assert names(await told(running, "devices", "-n", "tenant-a")) == []
    assert len(names(await told(running, "devices", "--rollout", "thermostat"))) == 14
    ended = await otaflux_async("devices", "--limit", "4", "--server", running.internal_url)
    assert ended.returncode == 0
    assert "There are more than these 4" in ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines() if "home-" in line] == HOMES[:4]
    monkeypatch.setenv("OTAFLUX_SERVER_URL", running.internal_url)
    nobody = await otaflux_async("devices", "--version", "9.9.9")
    assert (nobody.returncode, nobody.stdout) == (0, "")
    assert "No device fits" in nobody.stderr


def device(name: str) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("version", "model", "digest", "reason", "rollout", "ring", "state", "offered")
    )
    times = dict.fromkeys(("firstSeen", "lastSeen"), "2026-01-01T00:00:00Z")
    ends = {"downloaded": None, "downloadedAt": None, "report": None, "newField": 1}
    known = {"namespace": "default", "device": name, "protocol": "json", "attributes": {}}
    return {**known, **empty, **times, **ends, "counted": True}


def test_every_page_is_read_and_an_endless_list_is_refused() -> None:
    with answering_server() as server:
        server.pages = [
            {"devices": [device("a"), device("b")], "next": "default/b"},
            {"devices": [], "next": "default/m"},
            {"devices": [device("n")], "next": None},
        ]
        ended = otaflux_here("devices", "--server", server.url, "-o", "json")
        assert ended.returncode == 0, ended.stderr
        assert [found["device"] for found in json.loads(ended.stdout)] == ["a", "b", "n"]
        assert "newField" in ended.stdout, "what a newer server says is passed on"
        assert "after=default%2Fm" in server.paths[-1]
        server.body = json.dumps({"devices": [], "next": "default/b"}).encode()
        ended = otaflux_here("devices", "--server", server.url)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "again and again" in ended.stderr


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0.4, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")],
)
def test_an_age_has_one_unit(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_a_rollout_that_is_not_there_is_said() -> None:
    with answering_server() as server:
        server.status = 404
        server.body = b'{"detail": "no policy of the rollout is in use"}'
        ended = otaflux_here("preview", "nowhere", "--server", server.url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no policy of the rollout is in use" in ended.stderr
