"""URLs, migrations and copies."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from otaflux_policy.facts import Facts
from otaflux_server.evidence import migrations
from otaflux_server.evidence.databases import (
    InvalidDatabaseUrl,
    StoreUnavailable,
    database_url,
    migrate,
    newest_schema,
    open_engine,
    transaction,
)
from otaflux_server.evidence.records import Batch, RunKey
from otaflux_server.evidence.schema import metadata
from otaflux_server.evidence.stores import Store
from tests.evidence.attempts import at, attempt
from tests.fixtures.databases import Postgres

RUN = RunKey("default", "thermostat", 1)


async def test_migrations_make_the_schema_of_the_code(database: str) -> None:
    def compare(connection: Connection) -> tuple[str | None, list[object]]:
        context = MigrationContext.configure(connection)
        return context.get_current_revision(), list(compare_metadata(context, metadata))

    await migrate(database)
    engine = open_engine(database)
    try:
        async with transaction(engine, writes=False) as connection:
            revision, differences = await connection.run_sync(compare)
    finally:
        await engine.dispose()
    assert revision == newest_schema()
    assert differences == []


async def test_down_to_nothing_and_up_again(database: str) -> None:
    def downgrade(connection: Connection) -> list[str]:
        config = Config()
        config.set_main_option("script_location", migrations.__path__[0])
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return inspect(connection).get_table_names()

    engine = open_engine(database)
    try:
        async with transaction(engine, writes=True) as connection:
            assert await connection.run_sync(downgrade) == ["alembic_version"]
    finally:
        await engine.dispose()
    await migrate(database)
    async with Store(database) as store:
        await store.merge(Batch({attempt(1): Facts(last_poll=at(1))}))
        assert [item.key async for item in store.attempts(RUN)] == [attempt(1)]


async def test_replicas_that_migrate_together(postgres_server: Postgres, tmp_path: Path) -> None:
    for url in (postgres_server.new_database(), f"sqlite:///{tmp_path / 'new.db'}"):
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, migrate(url)) for _ in range(3)))
        async with Store(url) as store:
            assert await store.runs() == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "evidence.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://u:secret@h/d",
        "postgresql://h",
    ],
)
def test_urls_of_no_use(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match="sqlite:///FILE") as error:
        database_url(url)
    assert "secret" not in str(error.value)


async def test_nothing_listens(tmp_path: Path) -> None:
    async with Store("postgresql://user:secret@127.0.0.1:1/otaflux") as store:
        with pytest.raises(StoreUnavailable) as error:
            await store.runs()
        assert "secret" not in str(error.value)
    async with Store(f"sqlite:///{tmp_path}/missing/evidence.db") as store:
        with pytest.raises(StoreUnavailable):
            await store.runs()


async def test_a_failure_is_named_and_tells_no_values(sqlite_database: str) -> None:
    locker = sqlite3.connect(Path(sqlite_database.removeprefix("sqlite:///")), isolation_level=None)
    with contextlib.closing(locker):
        locker.execute("BEGIN IMMEDIATE")
        async with Store(sqlite_database, busy_seconds=0) as store:
            with pytest.raises(StoreUnavailable, match=r"\(SQLITE_BUSY\)"):
                await store.merge(Batch({attempt("secret"): Facts()}))
