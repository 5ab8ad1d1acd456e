"""The JSON protocol: polls, reports, content-addressed downloads."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_policy.contract import State
from otaflux_server.devices import DeviceRecord
from tests.server.fleets import NAMESPACE, Served, firmware, policy, release, serving, settings

CONTENT = firmware("1.4.0")
HEX = hashlib.sha256(CONTENT).hexdigest()


def poll(served: Served, *headers: str, prefix: str = "", **body: Any) -> dict[str, Any]:
    text = json.dumps({"device": "kitchen-1"} | body).encode()
    answer = served.post(f"{prefix}/api/v1/poll", text, *headers)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = json.loads(answer.body)
    return found


def record_of(served: Served, device: str = "kitchen-1") -> DeviceRecord:
    record = served.server.devices.get(NAMESPACE, device)
    assert record is not None
    return record


def test_an_offer_says_all_that_a_device_needs(served: Served) -> None:
    target = served.offer("1.4.0", CONTENT)
    assert poll(served) == {
        "update": {
            "version": "1.4.0",
            "digest": target.digest,
            "size": len(CONTENT),
            "sha256": HEX,
            "crc32": zlib.crc32(CONTENT),
            "md5": hashlib.md5(CONTENT).hexdigest(),
            "url": f"http://updates.test/artifacts/sha256/{HEX}?device=kitchen-1",
        },
        "reason": "Offered",
        "pollAfterSeconds": 300,
    }


def test_the_url_gives_the_bytes(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    url = poll(served)["update"]["url"]
    answer = served.get(url.removeprefix("http://updates.test"))
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["ETag"] == f'"sha256:{HEX}"'


def test_nothing_is_null(served: Served) -> None:
    assert poll(served) == {"update": None, "reason": "NoMatch", "pollAfterSeconds": 300}


def test_a_device_that_runs_it_gets_null(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    assert poll(served, version="1.4.0")["update"] is None
    assert poll(served, version="1.4.0")["reason"] == "UpToDate"
    assert poll(served, version="1.3.0")["update"]["version"] == "1.4.0"


def test_a_device_that_runs_the_stable_release_gets_null(served: Served) -> None:
    content = firmware("1.3.0")
    served.source.add(content)
    served.offer(
        "1.4.0", CONTENT, stable=release("1.3.0", content), rings=({"name": "all", "open": False},)
    )
    digest = release("1.3.0", content).firmware.digest
    served.wait(lambda: served.server.artifacts.get(digest) is not None)
    assert poll(served, version="1.3.0") == {
        "update": None,
        "reason": "RingClosed",
        "pollAfterSeconds": 300,
    }
    assert poll(served, version="1.2.0")["update"]["version"] == "1.3.0"


def test_the_public_url_wins(tmp_path: Path) -> None:
    options = settings(tmp_path, public_url="https://updates.example.com/ota/")
    with serving(options) as served:
        served.offer("1.4.0", CONTENT)
        url = poll(served, prefix=f"/t/{NAMESPACE}")["update"]["url"]
    start = f"https://updates.example.com/ota/t/{NAMESPACE}/artifacts/sha256/"
    assert url == f"{start}{HEX}?device=kitchen-1"


def test_without_a_usable_host_the_address_is_given(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    body = b'{"device":"kitchen-1"}'
    head = b"POST /api/v1/poll HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    for host in (b"", b"Host: evil.example/path?\r\n", b"Host: a b\r\n"):
        answer = served.ask(head + host + b"\r\n" + body)
        url = json.loads(answer.body)["update"]["url"]
        assert url.startswith(served.server.device_url + "/artifacts/")


def test_what_a_device_says_is_recorded(served: Served) -> None:
    poll(served, version="1.2.0", model="m", attributes={"board": "rev-b"}, unknown=[1])
    record = record_of(served)
    assert (record.device.version, record.device.model) == ("1.2.0", "m")
    assert record.attributes == {"board": "rev-b"}
    assert record.protocol == "json"
    poll(served)
    assert record_of(served).device.version is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"device": None}, "device"),
        ({"device": 5}, "device"),
        ({"device": ""}, "device"),
        ({"device": "a b"}, "device"),
        ({"device": "x" * 129}, "device"),
        ({"version": 5}, "version"),
        ({"version": ""}, "version"),
        ({"version": "x" * 257}, "version"),
        ({"version": "1\n2"}, "version"),
        ({"model": {}}, "model"),
        ({"attributes": []}, "attributes"),
        ({"attributes": {"a": 1}}, "attributes"),
        ({"attributes": {str(i): "x" for i in range(33)}}, "attributes"),
        ({"attributes": {"a": "x" * 257}}, "attributes"),
    ],
)
def test_a_wrong_field_is_named(served: Served, body: dict[str, object], field: str) -> None:
    text = json.dumps({"device": "a"} | body).encode()
    answer = served.post("/api/v1/poll", text)
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"
    error = json.loads(answer.body)
    assert error["field"] == field
    assert error["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"device":NaN}', b"[" * 30000, b"{}x"],
)
@pytest.mark.parametrize("path", ["/api/v1/poll", "/api/v1/report"])
def test_what_is_no_json_object_is_400(served: Served, path: str, body: bytes) -> None:
    answer = served.post(path, body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]


def test_a_large_body_is_413(served: Served) -> None:
    answer = served.post("/api/v1/poll", b" " * 65537)
    assert answer.status == 413
    assert "65536" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("path", ["/api/v1/poll", "/api/v1/report"])
def test_only_post(served: Served, path: str) -> None:
    answer = served.get(path)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert json.loads(answer.body)["error"] == "use POST"


class TestReports:
    @pytest.mark.parametrize(
        "state", ["Downloading", "Downloaded", "Installing", "Updated", "Failed"]
    )
    def test_a_report_is_recorded(self, served: Served, state: str) -> None:
        body = {"device": "kitchen-1", "release": "1.4.0", "state": state, "code": "E7"}
        answer = served.post("/api/v1/report", json.dumps(body | {"message": "x\ny"}).encode())
        assert (answer.status, answer.body) == (200, b"{}")
        report = record_of(served).report
        assert report is not None
        assert (report.release, report.state, report.code) == ("1.4.0", state, "E7")
        assert report.message == "x\ny"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"device": "-"}, "device"),
            ({"release": None}, "release"),
            ({"release": ""}, "release"),
            ({"release": 5}, "release"),
            ({"state": None}, "state"),
            ({"state": "updated"}, "state"),
            ({"state": ["Updated"]}, "state"),
            ({"code": 7}, "code"),
            ({"message": "x" * 1025}, "message"),
            ({"message": 1}, "message"),
        ],
    )
    def test_a_wrong_field_is_named(
        self, served: Served, body: dict[str, object], field: str
    ) -> None:
        valid = {"device": "a", "release": "1.4.0", "state": "Updated"}
        answer = served.post("/api/v1/report", json.dumps(valid | body).encode())
        assert (answer.status, json.loads(answer.body)["field"]) == (400, field)

    def test_a_report_keeps_what_the_last_poll_said(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT, compatibility={"models": ["m"]})
        poll(served, model="m")
        report = b'{"device":"kitchen-1","release":"1.4.0","state":"Downloading"}'
        assert served.post("/api/v1/report", report).status == 200
        assert served.get(f"/artifacts/sha256/{HEX}?device=kitchen-1").status == 200

    def test_a_message_is_shown_whatever_it_holds(self, served: Served) -> None:
        message = b"x\\u0000\\ud800\\u001b[2J\\n\\ty"
        text = b'{"device":"a","release":"1","state":"Failed","message":"%s"}' % message
        assert served.post("/api/v1/report", text).status == 200
        report = record_of(served, "a").report
        assert report is not None
        assert report.message == "x" + "\N{REPLACEMENT CHARACTER}" * 3 + "[2J\n\ty"
        answer = httpx.get(f"{served.server.internal_url}/internal/v1/devices")
        assert answer.status_code == 200
        assert answer.json()["devices"][0]["report"]["message"] == report.message


def test_attributes_are_bounded_in_all(served: Served) -> None:
    attributes = {f"a{i}": "x" * 250 for i in range(20)}
    text = json.dumps({"device": "a", "attributes": attributes}).encode()
    answer = served.post("/api/v1/poll", text)
    assert (answer.status, json.loads(answer.body)["field"]) == (400, "attributes")
    assert "4096" in json.loads(answer.body)["error"]


def test_a_url_gives_its_bytes_after_a_restart_too(tmp_path: Path) -> None:
    """Although the server then knows neither version nor model of the device."""
    wanted = {"models": ["thermostat v2"], "minVersion": "1.0.0"}
    with serving(settings(tmp_path)) as served:
        served.offer("1.4.0", CONTENT, compatibility=wanted)
        url = poll(served, version="1.3.0+a", model="thermostat v2")["update"]["url"]
        path = url.removeprefix("http://updates.test")
        assert served.get(path).body == CONTENT
    with serving(settings(tmp_path), source=served.source) as served:
        assert served.get(path).body == CONTENT
        assert served.get(f"/artifacts/sha256/{HEX}?device=other").status == 404
        # What a poll says counts, whatever a URL says.
        assert poll(served, model="other")["reason"] == "Incompatible"
        assert served.get(path).status == 404


class TestArtifacts:
    PATH = f"/artifacts/sha256/{HEX}"

    @pytest.mark.parametrize(
        "path",
        [
            f"/artifacts/sha256/{'0' * 64}",
            f"/artifacts/sha256/{HEX.upper()}",
            f"/artifacts/sha256/{HEX}/x",
            f"/artifacts/sha256/{HEX}0",
            "/artifacts/sha256/",
            "/artifacts/sha256/..%2F..%2Flock",
            "/artifacts/sha256",
            f"/artifacts/sha1/{HEX}",
        ],
    )
    def test_other_digests_are_404(self, served: Served, path: str) -> None:
        served.offer("1.4.0", CONTENT)
        assert served.get(f"{path}?device=a").status == 404

    def test_the_device_must_be_named(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        assert served.get(self.PATH).status == 400
        assert served.get(f"{self.PATH}?device=-").status == 400

    def test_only_what_the_device_would_get(self, served: Served) -> None:
        target = served.offer("1.4.0", CONTENT, device_selector={"names": ["a"]})
        assert served.get(f"{self.PATH}?device=a").body == CONTENT
        assert served.get(f"{self.PATH}?device=b").status == 404
        served.apply(policy(target=target, state=State.PAUSED))
        assert served.get(f"{self.PATH}?device=a").status == 404

    def test_also_while_the_device_runs_it(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        poll(served, version="1.4.0")
        assert served.get(f"{self.PATH}?device=kitchen-1").body == CONTENT

    def test_a_connection_may_stay_open(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        request = f"GET {self.PATH}?device=a HTTP/1.1\r\nHost: x\r\n"
        with served.connect() as connection:
            for _ in range(3):
                connection.sendall(request.encode() + b"Range: bytes=0-9\r\n\r\n")
                raw = b""
                while not raw.endswith(CONTENT[:10]):
                    raw += connection.recv(4096)

    def test_a_complete_download_is_recorded(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        served.get(f"{self.PATH}?device=a", "Range: bytes=0-9")
        served.get(f"{self.PATH}?device=a", method="HEAD")
        assert record_of(served, "a").transfer is None
        served.get(f"{self.PATH}?device=a")
        served.wait(lambda: record_of(served, "a").transfer is not None)
        counts = {
            result: served.server.metrics.registry.get_sample_value(
                "otaflux_downloads_total", {"protocol": "json", "result": result}
            )
            for result in ("Complete", "Part", "Broken")
        }
        assert counts == {"Complete": 1.0, "Part": 1.0, "Broken": None}
