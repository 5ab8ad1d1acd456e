"""Every route of the internal API wants a token, but those of health and metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_server.access.guards import OPEN_PATHS
from tests.server.fleets import Served, serving, settings

TOKEN = "not-a-secret-of-anybody-4711"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def guarded(tmp_path: Path, token_file: Path) -> Iterator[Served]:
    internal = {"authentication": "Token", "token_file": str(token_file)}
    with serving(settings(tmp_path / "data", internal=internal)) as served:
        yield served


@pytest.fixture
def api(guarded: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.server.internal_url) as client:
        yield client


def routes(served: Served) -> list[tuple[str, str]]:
    """Method and path of every route, its parameters filled in."""
    found = set()
    for route in _all(served.server.internal_app.routes):
        path = route.path
        for parameter in ("namespace", "name", "device"):
            path = path.replace(f"{{{parameter}}}", "home")
        assert "{" not in path, "say above what the parameter is"
        found |= {(method, path) for method in (route.methods or {"GET"})}
    assert ("GET", "/internal/v1/devices/home/home/explain") in found
    assert {path for _, path in found} >= {"/docs", "/openapi.json", "/metrics"}
    return sorted(found)


def _all(items: Any) -> Iterator[Any]:
    """Routes, also of routers that are kept as such."""
    for item in items:
        router = getattr(item, "original_router", None)
        if hasattr(item, "path"):
            yield item
        elif router is not None:
            yield from _all(router.routes)
        else:
            raise AssertionError(f"{item!r}: where are its routes?")


def told(served: Served, status: int, reason: str) -> float:
    labels = {"status": str(status), "reason": reason}
    name = "otaflux_internal_requests_refused_total"
    return served.server.metrics.registry.get_sample_value(name, labels) or 0.0


def test_nobody_gets_in_without_a_token(guarded: Served, api: httpx.Client) -> None:
    for method, path in routes(guarded):
        answer = api.request(method, path)
        if path in OPEN_PATHS:
            assert answer.status_code == 200, path
            continue
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="otaflux"'
    closed = [path for _, path in routes(guarded) if path not in OPEN_PATHS]
    assert told(guarded, 401, "NoToken") == len(closed)


def test_with_the_token_all_is_open(guarded: Served, api: httpx.Client) -> None:
    for method, path in routes(guarded):
        answer = api.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code in (200, 404), path


@pytest.mark.parametrize(
    "path",
    ["/internal/v1/nothing", "/nothing", "/healthz/", "//healthz", "/internal/v1/../healthz"],
)
def test_what_does_not_exist_wants_one_too(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 401


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("Authorization", "Bearer something-else-entirely")], "TokenUnknown"),
        ([("Authorization", f"Bearer {TOKEN}x")], "TokenUnknown"),
        ([("Authorization", f"Bearer {TOKEN[:-1]}")], "TokenUnknown"),
        ([("Authorization", f"Basic {TOKEN}")], "MalformedHeader"),
        ([("Authorization", TOKEN)], "MalformedHeader"),
        ([("Authorization", "Bearer")], "MalformedHeader"),
        ([("Authorization", "Bearer " + "x" * 10_000)], "MalformedHeader"),
        ([("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")], "MalformedHeader"),
        ([("X-Authorization", f"Bearer {TOKEN}")], "NoToken"),
    ],
)
def test_what_is_not_the_token(
    guarded: Served,
    api: httpx.Client,
    headers: list[tuple[str, str]],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = api.get("/internal/v1/rollouts", headers=headers)
    assert answer.status_code == 401
    assert told(guarded, 401, reason) == 1
    out = capsys.readouterr()
    assert "internal API request refused" in out.out + out.err
    assert "Bearer" not in out.out + out.err
    assert TOKEN[:-1] not in out.out + out.err


def test_the_token_is_read_again(token_file: Path, api: httpx.Client) -> None:
    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return api.get("/internal/v1/rollouts", headers=headers).status_code

    assert status(TOKEN) == 200
    token_file.write_text("another-that-is-long-enough")
    assert (status(TOKEN), status("another-that-is-long-enough")) == (401, 200)


@pytest.mark.parametrize("content", [None, "", "\n", "short"])
def test_without_a_token_in_the_file_nobody_gets_in(
    guarded: Served, token_file: Path, api: httpx.Client, content: str | None
) -> None:
    if content is None:
        token_file.unlink()
    else:
        token_file.write_text(content)
    for token in (TOKEN, content or "x"):
        headers = {"Authorization": f"Bearer {token}"}
        if token.strip():
            assert api.get("/internal/v1/rollouts", headers=headers).status_code == 503
    assert told(guarded, 503, "TokenFileUnreadable") > 0


def test_readiness_tells_strangers_no_detail(api: httpx.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer something-else-entirely"}):
        answer = api.get("/readyz?verbose", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    answer = api.get("/readyz?verbose", headers={"Authorization": f"Bearer {TOKEN}"})
    assert "policies" in answer.json()["detail"]


def test_devices_have_none_of_it_on_their_port(guarded: Served) -> None:
    headers = [f"Authorization: Bearer {TOKEN}"]
    for method, path in routes(guarded):
        for prefix in ("", "/t/home"):
            answer = guarded.get(prefix + path, *headers, method=method)
            assert answer.status == 404, path


@pytest.mark.parametrize(("listen", "warns"), [("127.0.0.1:0", False), ("0.0.0.0:0", True)])
def test_an_open_one_is_said(
    tmp_path: Path, listen: str, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(settings(tmp_path, internal_listen=listen)):
        pass
    out = capsys.readouterr()
    assert ("whoever reaches the internal port" in out.out + out.err) is warns
