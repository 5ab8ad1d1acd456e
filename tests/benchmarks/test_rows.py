"""Each row of `make bench` runs, with the smallest counts; how fast is not looked at."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.changes import Size as ChangesSize
from benchmarks.changes import changes
from benchmarks.countings import Size as CountingsSize
from benchmarks.countings import counts, membership
from benchmarks.downloads import Size as DownloadsSize
from benchmarks.downloads import downloads
from benchmarks.first_syncs import Size as FirstSyncSize
from benchmarks.first_syncs import first_sync
from benchmarks.fleets import Fleet
from benchmarks.openings import Size as OpeningSize
from benchmarks.openings import opening
from benchmarks.polls import Size as PollsSize
from benchmarks.polls import polls
from benchmarks.recordings import Size as RecordingSize
from benchmarks.recordings import recording
from benchmarks.rows import measure
from tests.fixtures.databases import find_postgres
from tests.fixtures.servers import missing, require_parts

SMALL = Fleet(devices=40, rollouts=2, size=4096)
ONE = Fleet(devices=40, rollouts=1, size=4096)
CLUSTER = ("etcd", "kube-apiserver", "kubectl", "registry", "oras")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; PostgreSQL, as another user, may pass through it."""
    with tempfile.TemporaryDirectory(prefix="otaflux-rows-") as name:
        found = Path(name)
        found.chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield found
        monkeypatch.undo()


def require_programs(*names: str) -> None:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    absent = [name for name in names if shutil.which(name, path=path) is None]
    if absent:
        missing(f"{' '.join(absent)} not found: scripts/system-packages")


@pytest.mark.servers
async def test_polls_are_compared_with_bare_uvicorn(folder: Path) -> None:
    require_programs("wrk")
    (figure,) = await polls(PollsSize(SMALL, runs=1, seconds=1))
    assert figure.values["requests_per_second"] > 0
    assert figure.values["bare_requests_per_second"] > 0
    assert figure.values["ratio"] > 0
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_downloads_are_compared_with_nginx(folder: Path) -> None:
    require_programs("wrk", "nginx")
    figures = await downloads(DownloadsSize(SMALL, runs=1, seconds=1))
    assert [figure.measured.partition(",")[0] for figure in figures] == [
        "/firmware",
        "/artifacts/sha256/…",
    ]
    assert all(figure.values["megabytes_per_second"] > 0 for figure in figures)
    assert all(figure.values["nginx_megabytes_per_second"] > 0 for figure in figures)
    assert list(folder.iterdir()) == []


def require_postgres() -> None:
    if find_postgres() is None:
        missing("PostgreSQL not found: scripts/system-packages")


@pytest.mark.servers
async def test_recording_is_compared_with_none(folder: Path) -> None:
    require_programs("wrk")
    figures = await recording(RecordingSize(SMALL, runs=1, seconds=1))
    assert [figure.measured for figure in figures] == [
        "/version: 40 reporting devices",
        "/version: 40 silent devices",
    ]
    assert all(figure.values["ratio"] > 0 for figure in figures)
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_counts_are_timed_on_both_databases(folder: Path) -> None:
    require_programs("wrk")
    require_postgres()
    figures = await counts(CountingsSize(ONE, requests=2))
    assert [figure.measured for figure in figures] == [
        "40 devices, SQLite",
        "40 devices, PostgreSQL",
    ]
    assert all(figure.values["p99_milliseconds"] > 0 for figure in figures)
    assert all(figure.values["after_restart_seconds"] > 0 for figure in figures)
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_counting_anew_is_timed_and_its_stalls_are_seen(folder: Path) -> None:
    require_programs("wrk")
    (figure,) = await membership(CountingsSize(ONE, changes=1))
    assert figure.values["seconds"] > 0
    assert figure.values["stall_milliseconds"] > 0
    assert figure.values["cpu_stall_milliseconds"] > 0
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_the_last_device_of_an_opening_is_timed_on_both_databases(folder: Path) -> None:
    require_postgres()
    figures = await opening(OpeningSize(ONE, spreads=(0.1, 0.0)))
    assert [figure.measured for figure in figures] == [
        "40 devices poll within 0.1 s, SQLite",
        "40 devices poll in one instant, SQLite",
        "40 devices poll within 0.1 s, PostgreSQL",
        "40 devices poll in one instant, PostgreSQL",
    ]
    assert all(figure.values["last_milliseconds"] > 0 for figure in figures)
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_every_kind_of_change_is_timed(folder: Path) -> None:
    require_parts(*CLUSTER)
    figures = await changes(ChangesSize(rounds=1))
    assert {figure.measured: figure.values["changes"] for figure in figures} == {
        "all changes (7)": 7,
        "tag (2)": 2,
        "pause (1)": 1,
        "resume (1)": 1,
        "approval (1)": 1,
        "abort (1)": 1,
        "delete (1)": 1,
    }
    assert list(folder.iterdir()) == []


@pytest.mark.servers
async def test_the_first_sync_serves_every_rollout(folder: Path) -> None:
    require_parts(*CLUSTER)
    (figure,) = await first_sync(FirstSyncSize(rollouts=3))
    assert figure.values["rollouts"] == 3
    assert list(folder.iterdir()) == []


async def test_a_row_says_what_it_misses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))
    figures = await measure(["polls", "downloads"])
    assert [(figure.row, figure.measured) for figure in figures] == [
        ("polls", "not measured"),
        ("downloads", "not measured"),
    ]
    assert all("wrk is not installed" in figure.text for figure in figures)
