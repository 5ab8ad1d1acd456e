"""What tests are promised when they ask for servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.servers import missing, require_parts


def test_a_missing_part_skips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OTAFLUX_REQUIRE_ALL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="not found: registry oras; run `python -m"):
        require_parts("registry", "oras")


def test_a_missing_part_fails_where_everything_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTAFLUX_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="OTAFLUX_REQUIRE_ALL=1: no wrk"):
        missing("no wrk")


def test_who_asks_for_a_server_is_marked(
    request: pytest.FixtureRequest, repository: str, namespace: str
) -> None:
    assert request.node.get_closest_marker("servers") is not None
    assert repository.startswith("tests/t")
    assert namespace.startswith("t")


def test_who_asks_for_none_is_not_marked(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("servers") is None
