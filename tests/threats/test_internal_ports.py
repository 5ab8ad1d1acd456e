"""Whoever reaches the ports gets at no device's data: not by the internal API, nor by the other."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_server.access.guards import OPEN_PATHS
from otaflux_server.access.shared_tokens import SharedToken
from otaflux_server.device_app import DeviceApp
from tests.server.access.test_guards import TOKEN, routes
from tests.server.fleets import serving, settings

BOTH = pytest.mark.parametrize("mitigated", [True, False])


async def anybody(*_: object) -> None:
    return None


@BOTH
def test_the_internal_api_without_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """With a token, but not the one; without any it is asked for one, see `test_guards.py`."""
    if not mitigated:
        monkeypatch.setattr(SharedToken, "check", anybody)
    (tmp_path / "token").write_text(TOKEN)
    internal = {"authentication": "Token", "token_file": str(tmp_path / "token")}
    with serving(settings(tmp_path / "data", internal=internal)) as served:
        assert served.get("/version?device=kitchen-1").status == 404
        headers = {"Authorization": "Bearer guessed-0123456789"}
        with httpx.Client(base_url=served.server.internal_url, headers=headers) as api:
            for method, path in routes(served):
                answer = api.request(method, path)
                if path not in OPEN_PATHS:
                    assert (answer.status_code == 401) is mitigated, path
                assert mitigated or answer.status_code in (200, 404), path
            known = api.get("/internal/v1/devices").text
            assert ("kitchen-1" in known) is not mitigated
            for path in OPEN_PATHS:
                assert "kitchen-1" not in api.get(path).text


@BOTH
def test_the_internal_api_on_the_device_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """The mitigation is that they are two applications; what is tempting is one for both."""
    answer_device = DeviceApp.__call__
    with serving(settings(tmp_path, connections={"refusals_burst": 1000})) as served:

        async def one(app: DeviceApp, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] in app.routes:
                await answer_device(app, scope, receive, send)
            else:
                await served.server.internal_app(scope, receive, send)

        if not mitigated:
            monkeypatch.setattr(DeviceApp, "__call__", one)
        assert served.get("/version?device=kitchen-1").status == 404
        for method, path in routes(served):
            status = served.get(path, method=method).status
            if mitigated or "home" not in path:  # what they would name is not known
                assert (status == 404) is mitigated, path
        known = served.get("/internal/v1/devices").body
        assert (b"kitchen-1" in known) is not mitigated
