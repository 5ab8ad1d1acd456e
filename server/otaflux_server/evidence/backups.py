"""Copies of a SQLite database: made while it is in use, put back while it is not."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from otaflux_server.evidence.databases import (
    StoreUnavailable,
    database_url,
    known_schemas,
    migrate,
    newest_schema,
)
from otaflux_server.evidence.stores import Store

_SQLITE_MAGIC = b"SQLite format 3\0"
_DATA_DIR_LOCK = "lock"
_BUSY_SECONDS = 10


class BackupNotSupported(ValueError):
    """The database has its own tools for that."""


class NoCopy(ValueError):
    """The file is no copy of an evidence database that this version can use."""


class DatabaseInUse(Exception):
    """A server works on the database."""


async def backup(url: str, file: Path) -> None:
    """Writes a consistent copy of the SQLite database at `url` to the new file `file`.

    Servers may go on writing meanwhile. The file is there only once it is complete.

    Raises:
        BackupNotSupported: the database is PostgreSQL.
        FileExistsError: there is such a file already.
        StoreUnavailable: the database cannot be read, or the copy not be written.
        InvalidDatabaseUrl.
    """
    source = _sqlite_file(url, "copy a PostgreSQL database with pg_dump")
    await asyncio.to_thread(_copy, source, file)


async def restore(url: str, file: Path, *, at: datetime | None = None) -> Path | None:
    """Puts the copy `file` in the place of the SQLite database at `url`, which may be missing.

    An older copy is brought to the schema of this code. The database is marked as restored (`at`:
    now): what devices did since the copy was made is not known. It is replaced at once or, on an
    error, not at all.

    Returns:
        Where the replaced database is kept, `….before-restore`; None: there was none.

    Raises:
        BackupNotSupported: the database is PostgreSQL.
        NoCopy: see there.
        DatabaseInUse: stop the server first.
        StoreUnavailable: a file cannot be read or written.
        InvalidDatabaseUrl.
    """
    target = _sqlite_file(
        url,
        "restore a PostgreSQL database with pg_restore while no server runs, then mark it as "
        "restored",
    )
    part = target.with_name(target.name + ".restoring")
    with _translated("the copy could not be restored"), _unused(target):
        try:
            if target.exists() and file.samefile(target):
                raise NoCopy(f"{file} is the database itself")
            await asyncio.to_thread(_checked, file, part)
            await mark_restored(_url(url, part), at=at)
            return await asyncio.to_thread(_replace, target, part)
        finally:
            for ending in ("", "-wal", "-shm", "-journal"):
                part.with_name(part.name + ending).unlink(missing_ok=True)


async def mark_restored(url: str, *, at: datetime | None = None) -> None:
    """Notes that the database came from a copy, now or `at`; migrates it.

    No device counts as updated from then on before it was heard of again. `restore` does it; after
    pg_restore nobody else would. Servers read it when they start.

    Raises:
        StoreUnavailable, InvalidDatabaseUrl.
    """
    await migrate(url)
    async with Store(url) as store:
        await store.mark_restored(at or datetime.now(UTC))


def _sqlite_file(url: str, instead: str) -> Path:
    source = database_url(url)
    if source.get_backend_name() != "sqlite":
        raise BackupNotSupported(instead)
    assert source.database is not None
    return Path(source.database)


def _url(url: str, file: Path) -> str:
    return database_url(url).set(database=str(file)).render_as_string(hide_password=False)


def _copy(source: Path, file: Path) -> None:
    if file.exists():
        raise FileExistsError(f"{file} exists: name a new file for the copy")
    part = file.with_name(file.name + ".part")
    with _translated("no copy could be made"):
        try:
            part.unlink(missing_ok=True)
            _vacuum(source, part)
            part.rename(file)
            _sync(file.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _vacuum(source: Path, file: Path) -> None:
    """Writes what `source` holds, its WAL included, to the new file, and syncs it."""
    # Read and write, though nothing is written: a WAL needs its index.
    with contextlib.closing(_connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(file),))
    _sync(file)


def _checked(file: Path, part: Path) -> None:
    """Copies the file to `part` if it is a copy that can be used."""
    part.unlink(missing_ok=True)
    if not _of_sqlite(file):
        raise NoCopy(f"{file} is no SQLite database: name a file that a backup wrote")
    try:
        with contextlib.closing(_connect(file)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != ("ok",):
                raise NoCopy(f"{file} is damaged: {found[0]}")
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if version is None or version[0] not in known_schemas():
            raise NoCopy(
                f"{file} has a schema that this version does not know (its newest is "
                f"{newest_schema()}): restore it with the version that made it, or a newer one"
            )
        _vacuum(file, part)
    except sqlite3.OperationalError as error:
        if "alembic_version" in str(error):
            raise NoCopy(f"{file} is no copy of an evidence database") from error
        raise
    except sqlite3.DatabaseError as error:
        raise NoCopy(f"{file} is damaged: {error}") from error


@contextlib.contextmanager
def _unused(target: Path) -> Iterator[None]:
    """Keeps servers away from the database, and its file complete without a WAL."""
    with contextlib.ExitStack() as stack:
        lock = target.with_name(_DATA_DIR_LOCK)
        if lock.exists():
            handle = stack.enter_context(lock.open("rb"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DatabaseInUse(_in_use(target)) from None
        # Of a file that is none of its own SQLite would delete the WAL.
        if target.exists() and _of_sqlite(target):
            connection = stack.enter_context(contextlib.closing(_connect(target, busy=0)))
            try:
                # Leaving WAL needs that nobody else has the file open.
                _leave_wal(connection)
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                    raise DatabaseInUse(_in_use(target)) from None
                raise
            except sqlite3.DatabaseError:
                # Damaged: that is what copies are for. It is set aside as it is.
                connection.close()
        yield


def _in_use(target: Path) -> str:
    return f"{target} is in use: stop the server that works on it first"


def _leave_wal(connection: sqlite3.Connection) -> None:
    """Puts all that is written into the one file."""
    connection.execute("PRAGMA journal_mode=DELETE")


def _replace(target: Path, part: Path) -> Path | None:
    with contextlib.closing(_connect(part)) as connection:
        _leave_wal(connection)
    _sync(part)
    aside = None
    if target.exists():
        aside = target.with_name(target.name + ".before-restore")
        for ending in ("-wal", "-shm"):
            aside.with_name(aside.name + ending).unlink(missing_ok=True)
        kept = aside.with_name(aside.name + ".part")
        kept.unlink(missing_ok=True)
        # Linked, so that at no time there is no database: a server would begin a new one.
        try:
            kept.hardlink_to(target)
        except OSError:
            shutil.copyfile(target, kept)
        kept.replace(aside)
    for ending in ("-wal", "-shm"):
        # Of a damaged database only; it must not be taken for the copy's.
        beside = target.with_name(target.name + ending)
        if beside.exists():
            beside.replace(target.with_name(f"{target.name}.before-restore{ending}"))
    part.replace(target)
    _sync(target.parent)
    return aside


def _of_sqlite(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


def _connect(file: Path, *, busy: float = _BUSY_SECONDS) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=busy, isolation_level=None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"{what}: {error}") from error
