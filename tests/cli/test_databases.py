"""`otaflux db`: copies of a server's database, made while it serves and put back while not."""

import json
import sqlite3
from pathlib import Path

import httpx
import pytest

from otaflux_cli.standalone.running import Standalone
from tests.cli.commands import otaflux_async, otaflux_here
from tests.cli.places import Place
from tests.cli.waiting import until

MANIFEST = """
apiVersion: otaflux.io/v1alpha1
kind: FirmwareRollout
metadata: {name: firmware}
spec:
  artifact: {repository: localhost/firmware, tag: 1.3.2}
  deviceSelector: {}
  rings: [{name: all}]
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.add("1.3.2")
    place.file.write_text(MANIFEST)
    return place


def devices(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    try:
        return [row[0] for row in connection.execute("SELECT device FROM devices ORDER BY device")]
    finally:
        connection.close()


async def poll(running: Standalone, device: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{running.device_url}/version?device={device}&version=1.3.2")
        assert answer.status_code in (200, 404)


def recorded(place: Place, device: str) -> bool:
    file = place.data / "server" / "evidence.db"
    return file.exists() and device in devices(file)


async def test_a_copy_is_made_while_it_serves_and_put_back_while_not(place: Place) -> None:
    copy = place.folder / "monday.db"
    async with place.running() as running:

        async def known() -> bool:
            await poll(running, "kitchen-1")
            return recorded(place, "kitchen-1")

        await until(known)
        made = await otaflux_async("db", "backup", copy, "--data", place.data)
        assert made.returncode == 0, made.stderr
        assert str(copy) in made.stdout
        assert "otaflux db restore" in made.stderr
        again = await otaflux_async("db", "backup", copy, "--data", place.data)
        assert (again.returncode, "name a new file" in again.stderr) == (1, True)
        refused = await otaflux_async("db", "restore", copy, "--data", place.data)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is in use: stop the server" in refused.stderr
        assert "Traceback" not in refused.stderr

        async def later() -> bool:
            await poll(running, "kitchen-2")
            return recorded(place, "kitchen-2")

        await until(later)
    assert devices(copy) == ["kitchen-1"]
    restored = await otaflux_async("db", "restore", copy, "--data", place.data, "-o", "json")
    assert restored.returncode == 0, restored.stderr
    kept = Path(json.loads(restored.stdout)["replaced"])
    assert devices(kept) == ["kitchen-1", "kitchen-2"]
    assert devices(place.data / "server" / "evidence.db") == ["kitchen-1"]
    again = await otaflux_async("db", "restore", copy, "--data", place.data)
    assert again.returncode == 0, again.stderr
    assert "What was there before" in again.stdout
    assert "once they are heard of again" in again.stderr
    async with place.running() as running:
        await poll(running, "kitchen-1")


def test_a_lost_database_is_restored_into_an_empty_folder(tmp_path: Path, place: Place) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    lost = otaflux_here("db", "restore", tmp_path / "no.db", "--data", empty)
    assert (lost.returncode, "could not be restored" in lost.stderr) == (1, True)
    (tmp_path / "other.db").write_bytes(b"no database at all")
    wrong = otaflux_here("db", "restore", tmp_path / "other.db", "--data", empty)
    assert (wrong.returncode, "is no SQLite database" in wrong.stderr) == (1, True)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("backup", "x.db", "--data", "."), 1, "there is no evidence.db in ."),
        (("backup", "x.db"), 1, "there is no evidence.db in data"),
        (("restore", "x.db", "--data", "nowhere"), 1, "there is no folder nowhere"),
        (("backup", "x.db", "--database", "mysql://hunter2@h/d"), 2, "write sqlite:///FILE"),
        (("backup", "x.db", "--database", "postgresql://u:hunter2@h/d"), 2, "pg_dump"),
        (("restore", "x.db", "--database", "postgresql://u:hunter2@h/d"), 2, "pg_restore"),
        (("backup",), 2, "Missing argument"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = otaflux_here("db", *arguments)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    assert message in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr
