"""URLs, migrations and copies."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from otaflux_policy.facts import Facts
from otaflux_server.evidence.backups import BackupNotSupported, backup
from otaflux_server.evidence.databases import (
    InvalidDatabaseUrl,
    StoreUnavailable,
    database_url,
    migrate,
    newest_schema,
    open_engine,
    transaction,
)
from otaflux_server.evidence.records import RunKey
from otaflux_server.evidence.schema import metadata
from otaflux_server.evidence.stores import Batch, Store
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


async def test_a_copy_is_made_while_facts_are_written(sqlite_database: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with Store(sqlite_database) as store:
        await store.merge(Batch({attempt(n): Facts(last_poll=at(n)) for n in range(500)}))
        writing = asyncio.create_task(
            store.merge(Batch({attempt(f"later-{n}"): Facts() for n in range(500)}))
        )
        await backup(sqlite_database, copy)
        await writing
    async with Store(f"sqlite:///{copy}") as store:
        assert len([item async for item in store.attempts(RUN)]) in (500, 1000)
    with pytest.raises(FileExistsError):
        await backup(sqlite_database, copy)
    assert not copy.with_name("copy.db.part").exists()


async def test_copies_that_cannot_be_made(sqlite_database: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await backup(sqlite_database, tmp_path / "missing" / "copy.db")
    with pytest.raises(StoreUnavailable):
        await backup(f"sqlite:///{tmp_path}/nothing.db", tmp_path / "copy.db")
    with pytest.raises(BackupNotSupported, match="pg_dump"):
        await backup("postgresql://user@127.0.0.1/otaflux", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
