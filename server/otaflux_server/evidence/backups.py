"""Copies of a SQLite database that is in use."""

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path

from otaflux_server.evidence.databases import StoreUnavailable, database_url


class BackupNotSupported(ValueError):
    """The database has its own tools for that."""


async def backup(url: str, file: Path) -> None:
    """Writes a consistent copy of the SQLite database at `url` to the new file `file`.

    Servers may go on writing meanwhile. The file is there only once it is complete.

    Raises:
        BackupNotSupported: the database is PostgreSQL.
        FileExistsError: there is such a file already.
        StoreUnavailable: the database cannot be read, or the copy not be written.
        InvalidDatabaseUrl.
    """
    source = database_url(url)
    if source.get_backend_name() != "sqlite":
        raise BackupNotSupported("copy a PostgreSQL database with pg_dump")
    assert source.database is not None
    await asyncio.to_thread(_copy, Path(source.database), file)


def _copy(source: Path, file: Path) -> None:
    if file.exists():
        raise FileExistsError(f"{file} exists: name a new file for the copy")
    part = file.with_name(file.name + ".part")
    try:
        part.unlink(missing_ok=True)
        # Read and write, though nothing is written: a WAL needs its index.
        with contextlib.closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=10)
        ) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.rename(file)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreUnavailable(f"no copy could be made: {error}") from error
