"""What the device port does with identities, whatever the protocol."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from otaflux_policy.tokens import new_token
from otaflux_server.identities import Identity
from otaflux_server.refusals import Refusal, Refusals
from tests.server.fleets import NAMESPACE, Served, firmware, serving, settings, version_body
from tests.server.identities.asking import Asked, Credentials, ask, requests
from tests.server.identities.ways import (
    DEVICE,
    GROUP,
    OTHER_NAMESPACE,
    VICTIM,
    bearer,
    device_token,
    write,
)

CONTENT = firmware("1.4.0")
OWN, GATEWAY, KITCHENS, ABROAD = (new_token() for _ in range(4))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Offers 1.4.0 to whoever has a token."""
    file = tmp_path / "tokens"
    write(
        file,
        device_token(OWN, devices=[DEVICE]),
        device_token(GATEWAY, devices=["*"]),
        device_token(KITCHENS, group=GROUP),
        device_token(ABROAD, namespace=OTHER_NAMESPACE, devices=["*"]),
    )
    identity = {"kind": "Token", "tokens": str(file)}
    with serving(settings(tmp_path / "data", identity=identity)) as server:
        server.offer("1.4.0", CONTENT)
        yield server


def header(token: str) -> str:
    return f"Authorization: Bearer {token}"


def test_a_device_needs_not_name_itself(served: Served) -> None:
    assert served.get("/version", header(OWN)).body == version_body("1.4.0", CONTENT)
    assert served.get("/version", header(OWN)).status == 200  # at once
    assert served.get("/firmware", header(OWN)).body == CONTENT
    poll = served.post("/api/v1/poll", b"{}", header(OWN))
    assert json.loads(poll.body)["update"]["version"] == "1.4.0"
    assert served.record(DEVICE).device.id == DEVICE
    assert served.call(lambda: len(served.server.devices)) == 1


def test_a_gateway_has_to_name_the_device(served: Served) -> None:
    assert served.get("/version", header(GATEWAY)).status == 400
    assert served.post("/api/v1/poll", b"{}", header(GATEWAY)).status == 400
    assert served.get(f"/version?device={VICTIM}", header(GATEWAY)).status == 200
    assert served.get(f"/version?device={VICTIM}", header(OWN)).status == 403


def test_the_download_url_is_the_devices_own(served: Served) -> None:
    for prefix in ("", f"/t/{NAMESPACE}"):
        poll = served.post(f"{prefix}/api/v1/poll", b"{}", header(OWN))
        url = urlsplit(json.loads(poll.body)["update"]["url"])
        assert url.path.startswith(f"{prefix}/artifacts/")
        path = f"{url.path}?{url.query}"
        assert OWN not in poll.body.decode()
        assert served.get(path, header(OWN)).body == CONTENT
        assert served.get(path).status == 401
        assert served.get(path, header(ABROAD)).status == (403 if prefix else 404)


def test_without_a_prefix_a_device_is_in_its_own_namespace(served: Served) -> None:
    assert served.get(f"/version?device={DEVICE}", header(ABROAD)).status == 404
    assert served.call(lambda: served.server.devices.get(NAMESPACE, DEVICE)) is None
    assert served.call(lambda: served.server.devices.get(OTHER_NAMESPACE, DEVICE)) is not None


def test_a_name_in_the_query_is_none_in_the_body_and_the_other_way_round(served: Served) -> None:
    body = json.dumps({"device": DEVICE}).encode()
    assert served.post(f"/api/v1/poll?device={VICTIM}", body, header(OWN)).status == 200
    asked = Asked("GET", "/version", f"device={DEVICE}", json.dumps({"device": VICTIM}).encode())
    assert ask(served, asked, bearer(OWN)).status == 200
    assert served.call(lambda: served.server.devices.get(NAMESPACE, VICTIM)) is None


def test_a_token_in_the_query_is_none(served: Served) -> None:
    for name in ("token", "access_token", "authorization"):
        assert served.get(f"/version?device={DEVICE}&{name}={OWN}").status == 401


def test_a_401_says_how_and_a_body_is_not_waited_for(served: Served) -> None:
    head = "POST /api/v1/poll HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    answer = served.ask(head)  # and nothing of the body
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="otaflux"'
    assert answer.headers["Connection"] == "close"
    assert json.loads(answer.body) == {"error": "a token is needed"}
    twice = served.get("/version", header(OWN), header(OWN))
    assert (twice.status, "WWW-Authenticate" in twice.headers) == (401, True)


def test_a_403_is_the_same_for_a_device_that_is_known(served: Served) -> None:
    for prefix in ("", f"/t/{OTHER_NAMESPACE}"):
        asked = list(requests(served.server.device_app, VICTIM, prefix))
        before = [ask(served, request, bearer(OWN)).answer for request in asked]
        assert {status for status, _, _ in before} == {403}
        assert served.get(f"/version?device={VICTIM}", header(GATEWAY)).status == 200
        assert served.get(f"/version?device={VICTIM}", header(ABROAD)).status == 404
        assert [ask(served, request, bearer(OWN)).answer for request in asked] == before


def test_each_refusal_has_its_line_and_its_count_and_no_secret(served: Served) -> None:
    unknown = new_token()
    with capture_logs() as logs:
        for _ in range(3):
            assert served.get(f"/version?device={DEVICE}", header(unknown)).status == 401
        assert served.get(f"/version?device={VICTIM}", header(OWN)).status == 403
        assert served.get("/nothing", header(OWN)).status == 404
        assert served.get("/version?device=-", header(OWN)).status == 400

        def lines() -> dict[str, int]:
            found = [entry for entry in logs if entry["event"] == "request refused"]
            return {
                reason: sum(entry["count"] for entry in found if entry["reason"] == reason)
                for reason in {entry["reason"] for entry in found}
            }

        served.wait(lambda: sum(lines().values()) == 6)
    assert lines() == {"TokenUnknown": 3, "OtherDevice": 1, "NoSuchPath": 1, "InvalidRequest": 1}
    refused = [entry for entry in logs if entry["event"] == "request refused"]
    assert {entry["peer"] for entry in refused} == {"127.0.0.1"}
    levels = {entry["reason"]: entry["log_level"] for entry in refused}
    assert [reason for reason, level in sorted(levels.items()) if level == "warning"] == [
        "OtherDevice",
        "TokenUnknown",
    ]
    for secret in (unknown, OWN, VICTIM, "Bearer"):
        assert secret not in str(logs)
    text = served.call(served.server.metrics.text).decode()
    assert 'otaflux_requests_refused_total{reason="TokenUnknown",status="401"} 3.0' in text
    assert not re.search(f"{VICTIM}|{DEVICE}|otd_", text)


def flood(refusals: Refusals) -> None:
    for number in range(100):
        refusals.note(401, Refusal.NO_TOKEN, f"192.0.2.{number}")


def test_a_flood_of_refusals_is_a_line_a_second(served: Served) -> None:
    with capture_logs() as logs:
        served.call(lambda: flood(served.server.refusals))
        assert [entry["count"] for entry in logs] == [1]
        served.wait(lambda: len(logs) > 1)
    assert [(entry["count"], entry["peer"]) for entry in logs] == [
        (1, "192.0.2.0"),
        (99, "192.0.2.99"),
    ]


# Open


def test_open_is_said_to_be_what_it_is(tmp_path: Path) -> None:
    with capture_logs() as logs, serving(settings(tmp_path, identity={"kind": "Open"})):
        pass
    (entry,) = (entry for entry in logs if "identity Open" in entry["event"])
    assert entry["log_level"] == "warning"
    assert "whoever reaches the device port may be any device" in entry["event"]


def seen(served: Served) -> list[tuple[str, str]]:
    return served.call(lambda: served.server.devices.keys())


@pytest.mark.parametrize(
    ("namespace", "prefix"), [(NAMESPACE, ""), (OTHER_NAMESPACE, f"/t/{OTHER_NAMESPACE}")]
)
def test_open_believes_the_id_and_the_prefix(tmp_path: Path, namespace: str, prefix: str) -> None:
    with serving(settings(tmp_path, identity={"kind": "Open"})) as served:
        for request in requests(served.server.device_app, DEVICE, prefix):
            told = ask(served, request, Credentials(headers=(("Authorization", "x"),)))
            assert told.status not in (401, 403)
            assert seen(served) == [(namespace, DEVICE)]


def test_a_single_tenant_has_no_prefix(tmp_path: Path) -> None:
    single = {"kind": "Open", "tenancy": "Single"}
    with serving(settings(tmp_path, identity=single)) as served:
        for namespace in (NAMESPACE, OTHER_NAMESPACE):
            for request in requests(served.server.device_app, DEVICE, f"/t/{namespace}"):
                assert ask(served, request).status == 404
        assert not seen(served)
        assert b"no update" in served.get(f"/version?device={DEVICE}").body
        assert seen(served) == [(NAMESPACE, DEVICE)]


def test_an_identity_is_what_the_app_holds_requests_to() -> None:
    """That of a device permits no other id, however like it."""
    identity = Identity.of_device(NAMESPACE, "a")
    assert not any(map(identity.permits, ("", "A", "a ", "aa", "a\n", "b")))
