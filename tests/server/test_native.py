"""The native protocol, as its real clients speak it (raw sockets) and as the design fixes it."""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_policy import versions
from otaflux_policy.contract import Ring, State
from otaflux_server.serving import UpdateServer
from tests.server.fleets import (
    NAMESPACE,
    Answer,
    MemorySource,
    Served,
    firmware,
    policy,
    release,
    serving,
    settings,
    version_body,
)

CONTENT = firmware("1.4.0")
DEVICE_ID = "A1._:-" + "x" * 122


def parses_as_version(body: bytes) -> bool:
    """Whether a client that takes the first line for a version finds one."""
    first = body.split(b"\n")[0].decode(errors="replace").strip()
    return versions.parse(first) is not None or re.match(r"\d+\.\d+\.\d+", first) is not None


def test_version_tells_version_crc_and_size(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    answer = served.get("/version?device=kitchen-1")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.body == b"1.4.0\n%d\n%d" % (zlib.crc32(CONTENT), len(CONTENT))


def test_firmware_gives_the_bytes_until_the_connection_ends(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    served.get("/version?device=kitchen-1")
    answer = served.ask("GET /firmware?device=kitchen-1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Connection"] == "close"
    assert answer.body == CONTENT


def test_no_update_is_404(served: Served) -> None:
    answer = served.get("/version?device=kitchen-1")
    assert answer.status == 404
    assert answer.headers["Connection"] == "close"
    assert not parses_as_version(answer.body)


@pytest.mark.parametrize("path", ["/version", "/firmware"])
@pytest.mark.parametrize(
    "device",
    ["", "-a", ".a", "a/b", "a%20b", "a%0Ab", "a+b", "x" * 129, "%00", "%C3%A4", "..%2Fetc", "%FF"],
)
def test_what_is_no_device_id_is_400(served: Served, path: str, device: str) -> None:
    served.offer("1.4.0", CONTENT)
    answer = served.get(f"{path}?device={device}")
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"
    assert answer.body.endswith(b"\n\n")
    assert b"device" in answer.body
    assert not parses_as_version(answer.body)


@pytest.mark.parametrize("path", ["/version", "/firmware", "/version?other=1", "/version?device"])
def test_no_device_is_400(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status == 400
    assert not parses_as_version(answer.body)


def test_a_device_given_twice_is_400(served: Served) -> None:
    assert served.get("/version?device=a&device=b").status == 400


@pytest.mark.parametrize("device", ["a", "0", DEVICE_ID, "aa:bb:cc:dd:ee:ff", "aa%3Abb", "A" * 128])
def test_device_ids_of_every_kind(served: Served, device: str) -> None:
    served.offer("1.4.0", CONTENT)
    assert served.get(f"/version?device={device}").status == 200
    assert served.get(f"/firmware?device={device}").body == CONTENT


class TestClientOfMay2025:
    """No device parameter, any difference is an update, 1 024 bytes of headers, checks the CRC."""

    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[Served]:
        options = settings(tmp_path, native={"default_device": "kitchen-1"})
        with serving(options) as server:
            yield server

    def test_the_setting_names_the_device(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT, device_selector={"names": ["kitchen-1"]})
        request = "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert served.ask(request.format("/version")).body == version_body("1.4.0", CONTENT)
        answer = served.ask(request.format("/firmware"))
        assert answer.body == CONTENT
        assert len(answer.head) <= 1024

    def test_a_device_that_names_itself_is_that_device(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT, device_selector={"names": ["kitchen-1"]})
        assert served.get("/version?device=cellar-1").status == 404

    def test_an_invalid_id_does_not_become_the_default(self, served: Served) -> None:
        assert served.get("/version?device=-").status == 400

    def test_the_json_protocol_has_no_default(self, served: Served) -> None:
        assert served.post("/api/v1/poll", b"{}").status == 400


class TestClientOfJune2025:
    """A line end before the request, `Connection: close`, buffers of 256 bytes, one read."""

    REQUEST = b"\r\nGET %s?device=kitchen-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    def test_one_read_of_256_bytes_sees_the_version(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        with served.connect() as connection:
            connection.sendall(self.REQUEST % b"/version")
            answer = Answer(connection.recv(256))
            assert answer.body == version_body("1.4.0", CONTENT)
            assert connection.recv(256) == b""

    def test_the_head_of_firmware_fits_256_bytes(self, served: Served) -> None:
        large = firmware("1.4.0", 16 << 20)
        served.offer("1.4.0", large)
        served.ask(self.REQUEST % b"/version")
        answer = served.ask(self.REQUEST % b"/firmware")
        assert len(answer.head) <= 256
        assert answer.body == large

    def test_errors_fit_as_well(self, served: Served) -> None:
        for path in ("/version", "/firmware"):
            assert len(served.ask(self.REQUEST % path.encode()).raw) <= 256
            assert len(served.get(path).raw) <= 256
            assert len(served.get(f"{path}?device=-").raw) <= 256


class TestClientsOfJanuary2026:
    """Keep-alive for `/version`, then close; wait for two line ends or the end."""

    def test_one_connection_serves_both(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        with served.connect() as connection:
            connection.sendall(b"GET /version?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = Answer(connection.recv(4096))
            assert answer.body == version_body("1.4.0", CONTENT)
            assert answer.body.count(b"\n") == 2
            connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            raw = b""
            while part := connection.recv(65536):
                raw += part
        assert Answer(raw).body == CONTENT

    def test_a_404_ends_the_connection_though_keep_alive_was_asked(self, served: Served) -> None:
        request = "GET {} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
        for path in ("/version?device=a", "/firmware?device=a", "/version", "/nothing"):
            answer = served.ask(request.format(path))  # returns: the server closed
            assert answer.status in (400, 404)
            assert answer.body.count(b"\n") >= 2


@pytest.mark.parametrize("size", [0, 1, 9])
def test_firmware_that_makes_clients_panic_is_not_offered_to_them(
    served: Served, size: int
) -> None:
    served.offer("1.4.0", b"x" * size)
    answer = served.get("/version?device=a")
    assert answer.status == 404
    assert b"ArtifactUnavailable" in answer.body
    assert served.get("/firmware?device=a").status == 404
    assert b'"update":{' in served.post("/api/v1/poll", b'{"device":"a"}').body


def test_ten_bytes_are_enough(served: Served) -> None:
    served.offer("1.4.0", b"x" * 10)
    served.get("/version?device=a")
    assert served.get("/firmware?device=a").body == b"x" * 10


@pytest.mark.parametrize("version", ["1.4.0\n1", "1.4\r0", "1.4.0\x00"])
def test_a_version_that_would_shift_the_fields_is_not_offered(served: Served, version: str) -> None:
    served.offer(version, CONTENT)
    assert served.get("/version?device=a").status == 404


def test_model_and_version_can_be_told(served: Served) -> None:
    served.offer(
        "1.4.0", CONTENT, compatibility={"models": ["thermostat-v2"], "minVersion": "1.2.0"}
    )
    path = "/version?device=a&model={}&version={}"
    assert served.get(path.format("thermostat-v2", "1.3.0")).status == 200
    assert served.get("/firmware?device=a").body == CONTENT
    assert served.get(path.format("thermostat-v1", "1.3.0")).status == 404
    assert served.get("/firmware?device=a").status == 404
    assert served.get(path.format("thermostat-v2", "1.1.0")).status == 404
    assert served.get("/version?device=a").status == 404


def test_a_device_that_runs_the_release_is_told_so(served: Served) -> None:
    """An equal version is no update for any client; 404 would be one more case for them."""
    served.offer("1.4.0", CONTENT)
    answer = served.get("/version?device=a&version=1.4.0")
    assert answer.body == version_body("1.4.0", CONTENT)


def test_a_newer_device_is_not_taken_back(served: Served) -> None:
    served.offer("1.4.0", CONTENT)
    answer = served.get("/version?device=a&version=1.5.0")
    assert (answer.status, b"DowngradeForbidden" in answer.body) == (404, True)


@pytest.mark.parametrize("text", ["x" * 257, "a%0Ab", "%01"])
@pytest.mark.parametrize("name", ["version", "model"])
def test_odd_texts_are_400_and_name_the_field(served: Served, name: str, text: str) -> None:
    answer = served.get(f"/version?device=a&{name}={text}")
    assert (answer.status, name.encode() in answer.body) == (400, True)


class TestPins:
    def test_firmware_needs_a_version_first(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        answer = served.get("/firmware?device=a")
        assert answer.status == 404
        assert b"/version first" in answer.body

    def test_a_pin_belongs_to_one_device(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        assert served.get("/firmware?device=b").status == 404

    def test_firmware_may_be_fetched_again(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        for _ in range(3):
            assert served.get("/firmware?device=a").body == CONTENT

    def test_another_release_never_comes_under_the_old_version(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        newer = firmware("1.5.0")
        served.offer("1.5.0", newer, run=2)
        assert served.get("/firmware?device=a").status == 404
        assert served.get("/version?device=a").body == version_body("1.5.0", newer)
        assert served.get("/firmware?device=a").body == newer

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"state": State.PAUSED}, b"Paused"),
            ({"state": State.ABORTED}, b"Aborted"),
            ({"rings": (Ring(name="all", open=False),)}, b"RingClosed"),
            ({"device_selector": {"names": ["b"]}}, b"NoMatch"),
            ({"compatibility": {"models": ["x"]}}, b"Incompatible"),
            ({"target": None}, b"RingClosed"),
        ],
    )
    def test_whatever_withdraws_an_offer_breaks_the_pin(
        self, served: Served, change: dict[str, Any], reason: bytes
    ) -> None:
        target = served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        served.apply(policy(**({"target": target} | change)))
        answer = served.get("/firmware?device=a")
        assert (answer.status, reason in answer.body) == (404, True)

    def test_a_removed_policy_breaks_the_pin(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        served.remove("thermostat")
        assert served.get("/firmware?device=a").status == 404

    def test_a_no_breaks_the_pin(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT, compatibility={"models": ["m"]})
        assert served.get("/version?device=a&model=m").status == 200
        assert served.get("/version?device=a&model=n").status == 404
        assert served.get("/firmware?device=a").status == 404

    def test_a_head_pins_nothing(self, served: Served) -> None:
        served.offer("1.4.0", CONTENT)
        assert served.get("/version?device=a", method="HEAD").status == 200
        assert served.get("/firmware?device=a").status == 404

    def test_a_pin_ends(self, tmp_path: Path) -> None:
        with serving(settings(tmp_path, pin_seconds=0.001)) as served:
            served.offer("1.4.0", CONTENT)
            served.get("/version?device=a")
            served.wait(lambda: True)
            record = served.server.devices.get(NAMESPACE, "a")
            assert record is not None
            served.call(lambda: setattr(record, "pinned_until", 0.0))
            assert served.get("/firmware?device=a").status == 404
            assert served.get("/version?device=a").status == 200


def test_a_closed_ring_gets_the_stable_release(served: Served) -> None:
    stable = firmware("1.3.0")
    served.source.add(stable)
    served.offer(
        "1.4.0",
        CONTENT,
        stable=release("1.3.0", stable),
        rings=(
            Ring(name="canary", selector={"names": ["canary-*"]}, open=True),
            Ring(name="fleet", open=False),
        ),
    )
    digest = release("1.3.0", stable).firmware.digest
    served.wait(lambda: served.server.artifacts.get(digest) is not None)
    assert served.get("/version?device=canary-1").body == version_body("1.4.0", CONTENT)
    assert served.get("/version?device=kitchen-1").body == version_body("1.3.0", stable)
    assert served.get("/firmware?device=kitchen-1").body == stable


def test_a_ring_with_max_concurrent_starts_no_more(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=(Ring(name="all", open=True, max_concurrent=2),))
    for device in "aba":
        assert served.get(f"/version?device={device}").body == version_body("1.4.0", CONTENT)
    assert b"ConcurrencyLimit" in served.get("/version?device=c").body


def test_what_is_not_stored_is_not_offered(served: Served) -> None:
    served.apply(policy(target=release("9.9.9", b"nobody has these bytes")))
    answer = served.get("/version?device=a")
    assert (answer.status, b"ArtifactUnavailable" in answer.body) == (404, True)


async def test_before_any_policy_was_read_everything_holds(tmp_path: Path) -> None:
    # Without a source nothing is ever read.
    async with (
        UpdateServer(settings(tmp_path), artifact_source=MemorySource()) as server,
        httpx.AsyncClient(base_url=server.device_url) as client,
    ):
        assert "Hold" in (await client.get("/version?device=a")).text
        assert (await client.get("/firmware?device=a")).status_code == 404
        server.policies.connected()
        assert "NoMatch" in (await client.get("/version?device=a")).text


class TestNamespaces:
    def test_a_prefix_names_the_namespace(self, served: Served) -> None:
        served.source.add(CONTENT)
        target = release("1.4.0", CONTENT)
        served.apply(policy(namespace="office", target=target))
        served.wait(lambda: served.server.artifacts.get(target.firmware.digest) is not None)
        assert served.get("/version?device=a").status == 404
        assert served.get("/t/office/version?device=a").body == version_body("1.4.0", CONTENT)
        assert served.get("/t/office/firmware?device=a").body == CONTENT
        assert served.get("/t/home/firmware?device=a").status == 404
        assert served.get(f"/t/{NAMESPACE}/version?device=a").status == 404

    @pytest.mark.parametrize(
        "path",
        [
            "/t//version",
            "/t/UPPER/version",
            "/t/a.b/version",
            "/t/-/version",
            "/t/a",
            "/t/a/",
            "/t/a/b/version",
            "/t/" + "x" * 64 + "/version",
            "/t/a/t/b/version",
        ],
    )
    def test_what_is_no_namespace_is_no_path(self, served: Served, path: str) -> None:
        assert served.get(f"{path}?device=a").status == 404


@pytest.mark.parametrize("path", ["/", "/versions", "/version/", "//version", "/firmware/x", "*"])
def test_unknown_paths_are_404(served: Served, path: str) -> None:
    answer = served.get(f"{path}?device=a")
    assert answer.status in (400, 404)
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/version", "/firmware"])
def test_other_methods_are_405(served: Served, method: str, path: str) -> None:
    answer = served.get(f"{path}?device=a", "Content-Length: 0", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
