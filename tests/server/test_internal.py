"""The internal API: what the operator, people and Prometheus see."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from otaflux_policy.contract import FailureAction, FailureRule, Ring
from otaflux_policy.served import ArtifactState, ServedRollout
from tests.server.fleets import (
    NAMESPACE,
    Served,
    digest_of,
    firmware,
    group,
    policy,
    release,
)

CONTENT = firmware("1.4.0")


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.server.internal_url) as client:
        yield client


def rollout(api: httpx.Client, name: str = "thermostat") -> ServedRollout:
    answer = api.get(f"/internal/v1/rollouts/{NAMESPACE}/{name}")
    assert answer.status_code == 200
    return ServedRollout.model_validate(answer.json())


class TestRollouts:
    def test_what_is_served_is_told(self, served: Served, api: httpx.Client) -> None:
        target = served.offer("1.4.0", CONTENT, run=3)
        missing = release("1.5.0", b"nobody has these")
        item = policy(run=3, target=target, candidate=missing)
        served.apply(item)
        served.wait(lambda: bool(served.server._fetcher.state(missing.firmware.digest).reason))
        found = rollout(api)
        assert (found.revision, found.rejected, found.run) == (item.revision, "", 3)
        assert found.schema_versions == (1,)
        assert found.stored(target.firmware.digest)
        failed = found.artifacts[1]
        assert (failed.state, failed.reason) == (ArtifactState.FAILED, "RegistryUnreachable")
        assert failed.message == "nobody answers"
        told = served.call(lambda: served.server.served(NAMESPACE, "thermostat"))
        assert found.counts is not None
        assert told.counts is not None
        counts = told.counts.model_copy(update={"at": found.counts.at})
        assert found == told.model_copy(update={"counts": counts})

    def test_a_refused_policy_says_why(self, served: Served, api: httpx.Client) -> None:
        item = policy()
        served.apply(item)
        policies = served.server.policies
        served.call(lambda: policies.apply_policy(NAMESPACE, "thermostat", "{"))
        served.call(lambda: policies.apply_policy(NAMESPACE, "never-good", "{"))
        assert "not JSON" in rollout(api).rejected
        assert rollout(api).revision == item.revision
        assert rollout(api, "never-good").revision is None
        listed = [entry["name"] for entry in api.get("/internal/v1/rollouts").json()]
        assert listed == ["never-good", "thermostat"]
        counted = 'otaflux_policies_rejected_total{kind="policies",reason="Invalid"} 2.0'
        assert counted in api.get("/metrics").text

    def test_counts_and_breaker_are_told(self, served: Served, api: httpx.Client) -> None:
        rule = FailureRule(max_percent=20, min_sample=2, action=FailureAction.PAUSE)
        ring = Ring(name="canary", open=True, failure=rule)
        target = served.offer("1.4.0", CONTENT, run=3, rings=(ring,))
        served.apply(group("some", names=("a", "b", "c", "never-seen")))
        for device in ("a", "b", "c", "scanner"):
            served.get(f"/version?device={device}&version=1.3.0")
        counts = rollout(api).counts
        assert counts is not None
        assert (counts.run, counts.release) == (3, target.digest)
        canary = counts.ring("canary")
        assert (canary.members, canary.offered, canary.active) == (3, 3, 3)
        assert rollout(api).trip is None
        for device in ("a", "b"):
            served.get(f"/firmware?device={device}")
            report = {"device": device, "release": "1.4.0", "state": "Failed", "code": "boot"}
            served.post("/api/v1/report", json.dumps(report).encode())
        found = rollout(api)
        assert found.counts is not None
        assert found.counts.ring("canary").codes == {"boot": 2}
        assert found.trip is not None
        assert (found.trip.run, found.trip.ring, found.trip.failed) == (3, "canary", 2)
        assert b"1.4.0" not in served.get("/version?device=d&version=1.3.0").body
        assert self.explained(api, "d")["reason"] == "BreakerOpen"
        (listed,) = api.get("/internal/v1/rollouts").json()
        assert listed["trip"]["failed"] == 2

    def explained(self, api: httpx.Client, device: str) -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"/internal/v1/devices/home/{device}/explain").json()
        return found

    def test_an_unknown_rollout_is_answered_with_its_run(
        self, served: Served, api: httpx.Client
    ) -> None:
        assert rollout(api, "unknown") == ServedRollout(
            namespace=NAMESPACE, name="unknown", schema_versions=(1,)
        )
        served.apply(policy(run=5))
        served.remove("thermostat")
        assert (rollout(api).run, rollout(api).revision) == (5, None)


class TestDevices:
    def test_pages(self, served: Served, api: httpx.Client) -> None:
        for device in ("c", "a", "b"):
            served.get(f"/version?device={device}&version=1.0.0")
        served.get("/t/office/version?device=a")
        seen, after = [], None
        while True:
            parameters = {"limit": 2} | ({"after": after} if after else {})
            page = api.get("/internal/v1/devices", params=parameters).json()
            seen += [(entry["namespace"], entry["device"]) for entry in page["devices"]]
            after = page["next"]
            if after is None:
                break
        assert seen == [("home", "a"), ("home", "b"), ("home", "c"), ("office", "a")]
        only = api.get("/internal/v1/devices", params={"namespace": "office"}).json()
        assert [entry["device"] for entry in only["devices"]] == ["a"]

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=1001",
            "after=x",
            "namespace=A",
            "state=Sad",
            "reason=Sad",
            "seenWithin=0",
            "seenWithin=nan",
            "nobody=knows",
        ],
    )
    def test_wrong_parameters_are_422(self, api: httpx.Client, query: str) -> None:
        assert api.get(f"/internal/v1/devices?{query}").status_code == 422

    def test_what_is_known_of_one(self, served: Served, api: httpx.Client) -> None:
        assert api.get("/internal/v1/devices/home/a").status_code == 404
        target = served.offer("1.4.0", CONTENT, run=2)
        served.apply(group("some", names=("a",)))
        served.get("/version?device=a&version=1.3.0&model=m")
        served.get("/firmware?device=a")
        found = api.get("/internal/v1/devices/home/a").json()
        expected = {
            "version": "1.3.0",
            "model": "m",
            "reason": "Offered",
            "rollout": "thermostat",
            "ring": "all",
            "state": "Downloaded",
            "counted": True,
            "offered": "1.4.0",
            "downloaded": digest_of(CONTENT),
        }
        assert {name: found[name] for name in expected} == expected
        (attempt,) = found["attempts"]
        assert (attempt["rollout"], attempt["run"], attempt["digest"], attempt["state"]) == (
            "thermostat",
            2,
            target.digest,
            "Downloaded",
        )
        assert attempt["facts"]["ring"] == "all"
        assert attempt["facts"]["firstByte"] is not None
        assert len(attempt["facts"]["downloads"]) == 1
        served.post(
            "/api/v1/report", b'{"device":"a","release":"1.4.0","state":"Failed","code":"x"}'
        )
        found = api.get("/internal/v1/devices/home/a").json()
        assert found["report"]["state"] == "Failed"
        assert (found["state"], found["attempts"][0]["code"]) == ("Failed", "x")

    def test_they_are_searched(self, served: Served, api: httpx.Client) -> None:
        served.offer(
            "1.4.0",
            CONTENT,
            rings=(Ring(name="canary", selector={"names": ["c*"]}, open=True), Ring(name="rest")),
        )
        served.apply(group("canaries", names=("c1", "c2"), model="m2"))
        for device in ("c1", "c2", "r1", "r2"):
            served.get(f"/version?device={device}&version=1.{device[1]}.0")
        served.get("/firmware?device=c2")
        served.get("/t/office/version?device=c1&version=1.1.0")

        def names(**parameters: str | float) -> list[str]:
            query: dict[str, str | float] = {"namespace": "home"}
            answer = api.get("/internal/v1/devices", params=query | parameters)
            assert answer.status_code == 200, answer.text
            return [entry["device"] for entry in answer.json()["devices"]]

        assert names() == ["c1", "c2", "r1", "r2"]
        assert names(rollout="thermostat", ring="rest") == ["r1", "r2"]
        assert names(ring="canary", state="Downloaded") == ["c2"]
        assert names(state="Pending") == ["r1", "r2"]
        assert names(reason="RingClosed") == ["r1", "r2"]
        assert names(version="1.1.0") == ["c1", "r1"]
        assert names(model="m2") == ["c1", "c2"]
        assert names(group="canaries", version="1.2.0") == ["c2"]
        assert names(rollout="another") == []
        assert names(seenWithin=3600) == names()
        records = served.server.devices
        served.call(lambda: setattr(records.get("home", "r1"), "last_seen", 1.0))
        assert names(seenWithin=3600) == ["c1", "c2", "r2"]

    def test_they_are_bounded(self, served: Served) -> None:
        devices = served.server.devices
        served.call(lambda: setattr(devices, "limit", 3))
        for device in ("a", "b", "c", "a", "d"):
            served.get(f"/version?device={device}")
        assert {record.device.id for record in devices.page(10)} == {"a", "c", "d"}


class TestExplain:
    def explain(self, api: httpx.Client, device: str = "kitchen-1", **query: str) -> dict[str, Any]:
        answer = api.get(f"/internal/v1/devices/home/{device}/explain", params=query)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def test_every_rule_is_shown(self, served: Served, api: httpx.Client) -> None:
        served.apply(
            group("kitchens", names=("kitchen-*",), labels={"room": "kitchen"}, model="m2"),
            policy("first", priority=9, device_selector={"matchLabels": {"room": "cellar"}}),
            policy(
                "second",
                priority=8,
                compatibility={"models": ["m1"], "minVersion": "1.2.0"},
                target=release("2.0.0", CONTENT),
            ),
        )
        target = served.offer(
            "1.4.0",
            CONTENT,
            rings=(
                Ring(name="canary", selector={"names": ["lab-?"]}, open=True),
                Ring(name="some", percent=1, open=True),
                Ring(name="rest", open=True),
            ),
        )
        found = self.explain(api, version="1.1.0")
        assert found["seen"] is False
        assert found["labels"] == {"otaflux.io/device": "kitchen-1", "room": "kitchen"}
        assert (found["groups"], found["model"]) == (["kitchens"], "m2")
        assert (found["reason"], found["rollout"], found["ring"]) == (
            "Offered",
            "thermostat",
            "rest",
        )
        assert found["release"]["digest"] == target.digest
        first, second, third = found["rollouts"]
        assert (first["selector"]["holds"], first["chosen"]) == (False, False)
        assert "'kitchen', not 'cellar'" in first["selector"]["detail"]
        assert second["selector"]["holds"] is True
        assert second["models"] == {"holds": False, "detail": "m2 is not one of ['m1']"}
        assert second["minVersion"]["holds"] is False
        assert third["chosen"] is True
        canary, some, rest = third["rings"]
        assert "names" in canary["selector"]["detail"]
        assert some["percent"]["holds"] is False
        assert str(third["bucket"]) in some["percent"]["detail"]
        assert (rest["chosen"], canary["chosen"]) == (True, False)

    def test_it_is_what_the_device_gets(self, served: Served, api: httpx.Client) -> None:
        served.offer("1.4.0", CONTENT, compatibility={"models": ["m"]})
        assert self.explain(api)["reason"] == "Incompatible"
        served.get("/version?device=kitchen-1&model=m&version=1.4.0")
        found = self.explain(api)
        assert (found["seen"], found["reason"], found["version"]) == (True, "UpToDate", "1.4.0")

    def test_what_native_clients_cannot_take_is_said(
        self, served: Served, api: httpx.Client
    ) -> None:
        assert self.explain(api)["native"] == {"holds": False, "detail": "no update"}
        served.offer("1.4.0", CONTENT)
        assert self.explain(api)["native"]["holds"] is True
        served.offer("1.5.0", b"x" * 9, run=2)
        found = self.explain(api)
        assert (found["reason"], found["native"]["holds"]) == ("Offered", False)
        assert "9 bytes" in found["native"]["detail"]
        assert b"ArtifactUnavailable" in served.get("/version?device=kitchen-1").body

    def test_asking_is_not_seeing(self, served: Served, api: httpx.Client) -> None:
        self.explain(api)
        assert api.get("/internal/v1/devices").json()["devices"] == []

    @pytest.mark.parametrize("device", ["-", "a%20b", "x" * 129])
    def test_wrong_ids_are_422(self, api: httpx.Client, device: str) -> None:
        assert api.get(f"/internal/v1/devices/home/{device}/explain").status_code == 422


def test_artifacts(served: Served, api: httpx.Client) -> None:
    served.offer("1.4.0", CONTENT)
    found = api.get("/internal/v1/artifacts").json()
    assert [entry["digest"] for entry in found["stored"]] == [digest_of(CONTENT)]
    assert found["stored"][0]["size"] == len(CONTENT)
    assert [entry["state"] for entry in found["wanted"]] == ["Stored"]


def test_readiness(served: Served, api: httpx.Client) -> None:
    missing = release("1.5.0", b"nobody has these")
    served.apply(policy(target=missing))
    assert api.get("/readyz").json() == {"ready": True}
    verbose = api.get("/readyz?verbose").json()
    assert (verbose["ready"], verbose["detail"]["policies"]) == (True, 1)
    assert verbose["detail"]["evidence"] == {
        "loaded": True,
        "settled": True,
        "waiting": 0,
        "waitingTrips": 0,
        "dropped": 0,
        "refused": 0,
        "failure": "",
        "replicas": "",
    }
    served.call(lambda: served.server.policies.disconnected("the API server is unreachable"))
    answer = api.get("/readyz?verbose")
    assert answer.status_code == 200
    assert answer.json()["detail"]["disconnected"] == "the API server is unreachable"


def test_replicas(served: Served, api: httpx.Client) -> None:
    served.offer("1.4.0", CONTENT)
    (replica,) = api.get("/internal/v1/replicas").json()
    assert (replica["live"], replica["schemaVersions"]) == (True, [1])
    assert [(entry["name"], entry["namespace"]) for entry in replica["policies"]] == [
        ("thermostat", NAMESPACE)
    ]
    assert [entry["state"] for entry in replica["artifacts"]] == ["Stored"]


def test_health(api: httpx.Client) -> None:
    assert (api.get("/healthz").status_code, api.get("/healthz").text) == (200, "ok\n")


def test_metrics_count_and_never_name_a_device(served: Served, api: httpx.Client) -> None:
    served.offer("1.4.0", CONTENT)
    for path in ("/version", "/firmware"):
        served.get(f"{path}?device=a-very-special-name")
    served.get("/version?device=-")
    served.post("/api/v1/poll", b'{"device":"a-very-special-name"}')
    served.post(
        "/api/v1/report", b'{"device":"a-very-special-name","release":"x","state":"Failed"}'
    )
    text = api.get("/metrics").text
    for line in (
        'otaflux_polls_total{protocol="native",reason="Offered"} 1.0',
        'otaflux_polls_total{protocol="json",reason="Offered"} 1.0',
        'otaflux_requests_refused_total{reason="InvalidRequest",status="400"} 1.0',
        'otaflux_reports_total{protocol="json",state="Failed"} 1.0',
        'otaflux_downloads_total{protocol="native",result="Complete"} 1.0',
        f'otaflux_download_bytes_total{{protocol="native"}} {float(len(CONTENT))}',
        'otaflux_artifact_pulls_total{result="Stored"} 1.0',
        'otaflux_artifacts{state="Stored"} 1.0',
        "otaflux_policies 1.0",
        "otaflux_policy_source_connected 1.0",
        "otaflux_devices 1.0",
    ):
        assert line in text.split("\n")
    assert "special" not in text


def test_openapi_describes_it(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert "/internal/v1/rollouts/{namespace}/{name}" in paths
    assert all(operation["get"]["description"] for operation in paths.values())
    for operation in paths.values():
        for parameter in operation["get"].get("parameters", []):
            assert parameter["description"], parameter["name"]


def test_devices_cannot_reach_it(served: Served) -> None:
    for path in ("/internal/v1/rollouts", "/metrics", "/readyz", "/healthz", "/openapi.json"):
        assert served.get(path).status == 404
