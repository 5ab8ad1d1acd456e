"""Engines for both databases, and what can go wrong with them."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, event, make_url, pool, text
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from otaflux_server.evidence.ticks import renumber

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_WRITES = "otaflux_writes"
_MIGRATION_LOCK = 0x6F7461666C7578  # "otaflux"
_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 30.0
BUSY_SECONDS = 10.0


class InvalidDatabaseUrl(ValueError):
    """The URL names no database that evidence can be kept in; the message never holds it."""


class StoreUnavailable(Exception):
    """The database cannot be used now; what was asked for did not happen, or is not known to."""


class FactsRefused(Exception):
    """The database does not take these facts, and never will."""


def database_url(text_: str) -> URL:
    """`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`, with our driver.

    Raises:
        InvalidDatabaseUrl: it is neither.
    """
    wanted = "write sqlite:///FILE or postgresql://USER@HOST/DATABASE as the database's URL"
    try:
        url = make_url(text_)
    except (ArgumentError, ValueError):
        raise InvalidDatabaseUrl(wanted) from None
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None or url.database in (None, "", ":memory:"):
        raise InvalidDatabaseUrl(wanted)
    return url.set(drivername=driver)


def open_engine(text_: str, *, busy_seconds: float = BUSY_SECONDS) -> AsyncEngine:
    """An engine for the URL; nothing is connected yet. Dispose of it in the end.

    Raises:
        InvalidDatabaseUrl: see `database_url`.
    """
    url = database_url(text_)
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            pool_timeout=_CONNECT_SECONDS,
            connect_args={"timeout": _CONNECT_SECONDS, "command_timeout": _STATEMENT_SECONDS},
        )
    engine = create_async_engine(
        url,
        hide_parameters=True,
        poolclass=pool.AsyncAdaptedQueuePool,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": busy_seconds},
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions of its own: `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        # A first offer must survive a power failure too: the device has been told.
        cursor.execute("PRAGMA synchronous=FULL")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine, *, writes: bool) -> AsyncIterator[AsyncConnection]:
    """A transaction that is committed at the end; a writing one is SQLite's only one.

    Raises:
        StoreUnavailable: the database cannot be used.
        FactsRefused: it does not take the values.
    """
    with _translated():
        async with engine.connect() as connection:
            await connection.execution_options(**{_WRITES: writes})
            async with connection.begin():
                yield connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise FactsRefused(f"the database refuses the values ({type(error).__name__})") from None
    except (
        SQLAlchemyError,
        sqlite3.Error,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
    ) as error:
        # Their texts may hold the URL or values.
        cause = getattr(error, "orig", None) or error
        name = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
        raise StoreUnavailable(f"the evidence database cannot be used now ({name})") from None


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def newest_schema() -> str:
    """The schema version that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def known_schemas() -> frozenset[str]:
    """The schema versions that this code can bring to the newest."""
    script = ScriptDirectory.from_config(_config())
    return frozenset(revision.revision for revision in script.walk_revisions())


async def migrate(url: str) -> None:
    """Brings the database to the schema of this code; creates a missing SQLite file.

    Replicas that start together wait for each other. A PostgreSQL database whose rows are of
    another cluster was copied: it is marked as restored.

    Raises:
        InvalidDatabaseUrl, StoreUnavailable.
    """
    engine = open_engine(url)
    try:
        async with transaction(engine, writes=True) as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            await connection.run_sync(_upgrade)
            if engine.dialect.name == "postgresql":
                await renumber(connection)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def migrate_now(url: str) -> None:
    """`migrate` for a caller without an event loop."""
    asyncio.run(migrate(url))
