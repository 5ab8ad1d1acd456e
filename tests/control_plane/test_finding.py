"""Which program is taken where several are to be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from otaflux_cli.control_plane import PartMissing, find, find_all
from otaflux_cli.control_plane.caches import Cache, default_cache
from otaflux_cli.control_plane.pins import ARCHIVED_PARTS, PARTS, Archive

NAME = "kube-apiserver"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An official archive exists for the machine that the test runs on, whatever it is."""
    archive = Archive("v1.2.3", "anywhere", "0" * 128)
    monkeypatch.setattr("otaflux_cli.control_plane.finding.archive_for", lambda _: archive)
    return archive


def program(path: Path, *, executable: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755 if executable else 0o644)
    return path


def test_assets_then_what_go_built_then_the_archive(
    cache: Cache, archive: Archive, tmp_path: Path
) -> None:
    assert find(NAME, cache=cache, environment={}) is None

    program(cache.binaries / archive.folder / NAME)
    found = find(NAME, cache=cache, environment={})
    assert found is not None
    assert (found.source, found.version) == ("archive", "v1.2.3")

    program(cache.binaries / PARTS[NAME].folder / NAME)
    found = find(NAME, cache=cache, environment={})
    assert found is not None
    assert (found.source, found.version) == ("go", PARTS[NAME].version)

    assets = program(tmp_path / "assets" / NAME).parent
    found = find(NAME, cache=cache, environment={"KUBEBUILDER_ASSETS": str(assets)})
    assert found is not None
    assert (found.source, found.path) == ("KUBEBUILDER_ASSETS", assets / NAME)


def test_go_alone_takes_only_what_go_built(cache: Cache, archive: Archive, tmp_path: Path) -> None:
    program(cache.binaries / archive.folder / NAME)
    assets = program(tmp_path / "assets" / NAME).parent
    environment = {"KUBEBUILDER_ASSETS": str(assets), "OTAFLUX_CONTROL_PLANE": "go"}
    assert find(NAME, cache=cache, environment=environment) is None
    built = program(cache.binaries / PARTS[NAME].folder / NAME)
    found = find(NAME, cache=cache, environment=environment)
    assert found is not None
    assert found.path == built


def test_an_unknown_mode_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="OTAFLUX_CONTROL_PLANE='docker': write `go`"):
        find(NAME, cache=cache, environment={"OTAFLUX_CONTROL_PLANE": "docker"})


def test_assets_give_no_registry(cache: Cache, tmp_path: Path) -> None:
    assets = program(tmp_path / "assets" / "registry").parent
    environment = {"KUBEBUILDER_ASSETS": str(assets)}
    assert find("registry", cache=cache, environment=environment) is None


def test_a_file_that_cannot_be_run_is_not_found(cache: Cache) -> None:
    program(cache.binaries / PARTS[NAME].folder / NAME, executable=False)
    assert find(NAME, cache=cache, environment={}) is None


def test_every_missing_part_is_named_with_the_command_that_gets_it(cache: Cache) -> None:
    program(cache.binaries / PARTS["kubectl"].folder / "kubectl")
    with pytest.raises(PartMissing, match="prepare --parts etcd oras`") as missing:
        find_all(("etcd", "kubectl", "oras"), cache=cache, environment={})
    assert missing.value.names == ("etcd", "oras")


@pytest.mark.parametrize(
    ("configured", "expected"),
    [("/somewhere", "/somewhere/otaflux"), ("", "/h/.cache/otaflux"), ("rel", "/h/.cache/otaflux")],
)
def test_the_cache_is_where_the_xdg_specification_says(
    configured: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", configured)
    assert default_cache().root == Path(expected)


def test_folders_in_the_cache_change_with_what_is_built() -> None:
    assert len({part.folder for part in PARTS.values()}) == len(PARTS)
    assert PARTS["kubectl"].version in PARTS["kubectl"].folder
    assert set(ARCHIVED_PARTS) < set(PARTS)
