"""Copies made while facts are written, and put back while nobody works on the database."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from otaflux_policy.facts import Facts
from otaflux_server.evidence import backups
from otaflux_server.evidence.backups import (
    BackupNotSupported,
    DatabaseInUse,
    NoCopy,
    backup,
    mark_restored,
    restore,
)
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import AttemptKey, Batch, Offer, RunKey
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt, judge

RUN = RunKey("default", "thermostat", 1)
POSTGRES = "postgresql://user@127.0.0.1/otaflux"


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


async def held(url: str) -> set[AttemptKey]:
    async with Store(url) as store:
        return {item.key async for item in store.attempts(RUN)}


async def restored_at(url: str) -> object:
    async with Store(url) as store:
        return await store.restored_at()


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
async def copy(sqlite_database: str, tmp_path: Path) -> Path:
    """A copy with attempt 1; the database has had another one since."""
    file = tmp_path / "copies" / "copy.db"
    file.parent.mkdir()
    async with Store(sqlite_database) as store:
        await store.claim(Offer(attempt(1), "canary", at(0)), 5, judge)
        await backup(sqlite_database, file)
        await store.claim(Offer(attempt(2), "canary", at(1)), 5, judge)
    return file


async def test_copies_made_while_facts_are_written(sqlite_database: str, tmp_path: Path) -> None:
    """Each holds whole batches, all that were merged before it was begun."""
    async with Store(sqlite_database) as store:
        merged = 0
        stop = asyncio.Event()

        async def write() -> None:
            nonlocal merged
            while not stop.is_set():
                batch = {attempt(f"{merged}-{n}"): Facts(last_poll=at(n)) for n in range(50)}
                await store.merge(Batch(batch))
                merged += 1

        writing = asyncio.create_task(write())
        try:
            for n in range(5):
                before = merged
                await backup(sqlite_database, tmp_path / f"copy-{n}.db")
                found = await held(f"sqlite:///{tmp_path}/copy-{n}.db")
                assert len(found) % 50 == 0
                assert len(found) >= before * 50
        finally:
            stop.set()
            await writing
    with pytest.raises(FileExistsError):
        await backup(sqlite_database, tmp_path / "copy-1.db")
    assert not [name for name in contents(tmp_path) if name.endswith(".part")]


async def test_copies_that_cannot_be_made(sqlite_database: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await backup(sqlite_database, tmp_path / "missing" / "copy.db")
    with pytest.raises(StoreUnavailable):
        await backup(f"sqlite:///{tmp_path}/nothing.db", tmp_path / "copy.db")
    with pytest.raises(BackupNotSupported, match="pg_dump"):
        await backup(POSTGRES, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


async def test_a_copy_is_restored_and_the_replaced_database_kept(
    sqlite_database: str, copy: Path
) -> None:
    kept = await restore(sqlite_database, copy, at=at(99))
    assert await held(sqlite_database) == {attempt(1)}
    assert await restored_at(sqlite_database) == at(99)
    assert kept is not None
    assert kept.name == "evidence.db.before-restore"
    assert await held(f"sqlite:///{kept}") == {attempt(1), attempt(2)}
    assert await restored_at(f"sqlite:///{kept}") is None
    assert await restored_at(f"sqlite:///{copy}") is None
    # Again, from what was kept: the file in its place is replaced in turn.
    assert await restore(sqlite_database, kept) == kept
    assert await held(sqlite_database) == {attempt(1), attempt(2)}
    assert await held(f"sqlite:///{kept}") == {attempt(1)}
    async with Store(sqlite_database) as store:
        await store.claim(Offer(attempt(3), "canary", at(2)), 5, judge)
        page = await store.changed()
        assert {item.key for item in page.attempts} == {attempt(1), attempt(2), attempt(3)}
    assert not [name for name in contents(kept.parent) if "restoring" in name]


async def test_a_database_that_is_gone_or_damaged_is_restored(
    sqlite_database: str, copy: Path
) -> None:
    file = file_of(sqlite_database)
    file.write_bytes(b"damaged" * 1000)
    wal = file.with_name("evidence.db-wal")
    wal.write_bytes(b"of the damaged one")
    kept = await restore(sqlite_database, copy)
    assert kept is not None
    assert kept.read_bytes().startswith(b"damaged")
    kept_wal = kept.with_name(f"{kept.name}-wal")
    assert kept_wal.read_bytes() == b"of the damaged one"
    assert not wal.exists()
    assert await held(sqlite_database) == {attempt(1)}
    # It is no part of what is kept next.
    await restore(sqlite_database, copy)
    assert not kept_wal.exists()
    assert await held(f"sqlite:///{kept}") == {attempt(1)}
    file.unlink()
    assert await restore(sqlite_database, copy) is None
    assert await held(sqlite_database) == {attempt(1)}


async def test_a_wal_that_a_crash_left_behind_is_kept_and_not_taken_for_the_copys(
    sqlite_database: str, copy: Path, tmp_path: Path
) -> None:
    crashed = tmp_path / "crashed" / "evidence.db"
    crashed.parent.mkdir()
    async with Store(sqlite_database) as store:
        await store.merge(Batch({attempt("late"): Facts(last_poll=at(1))}))
        for ending in ("", "-wal"):
            shutil.copy(f"{file_of(sqlite_database)}{ending}", f"{crashed}{ending}")
    kept = await restore(f"sqlite:///{crashed}", copy)
    assert await held(f"sqlite:///{crashed}") == {attempt(1)}
    assert await held(f"sqlite:///{kept}") == {attempt(1), attempt(2), attempt("late")}


@contextlib.contextmanager
def data_dir_lock(folder: Path) -> Iterator[None]:
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


async def test_nothing_is_restored_while_a_server_runs(sqlite_database: str, copy: Path) -> None:
    folder = file_of(sqlite_database).parent
    with data_dir_lock(folder), pytest.raises(DatabaseInUse, match="stop the server"):
        await restore(sqlite_database, copy)
    # One whose data directory is another: its connection alone tells.
    async with Store(sqlite_database) as store:
        await store.trips()
        with pytest.raises(DatabaseInUse, match="stop the server"):
            await restore(sqlite_database, copy)
        await store.claim(Offer(attempt(3), "canary", at(2)), 5, judge)
    assert await held(sqlite_database) == {attempt(1), attempt(2), attempt(3)}
    await restore(sqlite_database, copy)
    assert await held(sqlite_database) == {attempt(1)}


async def test_files_that_are_no_copies(sqlite_database: str, copy: Path, tmp_path: Path) -> None:
    folder = file_of(sqlite_database).parent
    before = contents(folder)
    text = tmp_path / "text.db"
    text.write_text("not a database")
    other = tmp_path / "other.db"
    newer = tmp_path / "newer.db"
    damaged = tmp_path / "damaged.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE something (id INTEGER)")
    shutil.copy(copy, newer)
    with contextlib.closing(sqlite3.connect(newer, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    damaged.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    for file, told in (
        (text, "no SQLite database"),
        (other, "no copy of an evidence database"),
        (newer, "does not know"),
        (damaged, "damaged"),
        (file_of(sqlite_database), "itself"),
    ):
        with pytest.raises(NoCopy, match=told):
            await restore(sqlite_database, file)
    with pytest.raises(StoreUnavailable, match="No such file"):
        await restore(sqlite_database, tmp_path / "missing.db")
    with pytest.raises(BackupNotSupported, match="pg_restore"):
        await restore(POSTGRES, copy)
    assert await held(sqlite_database) == {attempt(1), attempt(2)}
    assert contents(folder) - before <= {p.name for p in (text, other, newer, damaged)}


async def test_a_restore_that_breaks_off_changes_nothing(
    sqlite_database: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups, "_sync", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await restore(sqlite_database, copy)
    assert await held(sqlite_database) == {attempt(1), attempt(2)}
    assert not [n for n in contents(file_of(sqlite_database).parent) if "restor" in n]


async def test_marked_as_restored(database: str) -> None:
    await mark_restored(database, at=at(7))
    assert await restored_at(database) == at(7)
