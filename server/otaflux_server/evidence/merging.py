"""Statements that join new facts to stored ones: `INSERT … ON CONFLICT DO UPDATE`.

Each is commutative, associative and idempotent, as `Facts.join` is, and holds the row's lock until
the transaction ends, so that replicas need no other agreement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Delete,
    Table,
    Text,
    and_,
    bindparam,
    case,
    column,
    delete,
    false,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_policy.facts import MAX_DOWNLOADS
from otaflux_server.evidence.records import AttemptKey
from otaflux_server.evidence.rows import ATTEMPT, DEVICE, DOWNLOAD, Values, of_key
from otaflux_server.evidence.schema import attempts, devices, downloads

Dialect = Literal["sqlite", "postgresql"]

_Merge = Callable[[Any, Any], ColumnElement[Any]]
_ATTEMPT_KEY = AttemptKey._fields
_DIALECTS: dict[Dialect, Callable[[], Any]] = {
    "sqlite": aiosqlite.dialect,
    "postgresql": asyncpg.dialect,
}


@dataclass(frozen=True, slots=True)
class Join:
    """One statement that joins many rows, each once, to what is stored."""

    sql: str
    together: bool
    """All rows go as one array per column, which costs the database much less than one by one."""

    async def run(self, connection: AsyncConnection, rows: Sequence[Values]) -> None:
        """Joins the rows; their values are in the order of the columns."""
        # Compiled once: for so many rows SQLAlchemy's own handling of parameters is what costs.
        if self.together:
            await connection.exec_driver_sql(self.sql, tuple(map(list, zip(*rows, strict=True))))
        else:
            await connection.exec_driver_sql(self.sql, list(rows))


@dataclass(frozen=True, slots=True)
class Merging:
    """The statements for one database, for rows as of `rows`."""

    attempts: Join
    claims: Join
    """As `attempts`; each takes a slot of the ring that its row names."""
    downloads: Join
    devices: Join
    surplus_downloads: Delete
    """Parameters `key_…`: removes what comes after the attempt's earliest downloads."""


def inserting(dialect: Dialect) -> Any:
    """The database's own `insert(table)`, which knows ON CONFLICT."""
    return postgresql.insert if dialect == "postgresql" else sqlite.insert


@cache
def merging(dialect: Dialect) -> Merging:
    """The statements for this database."""
    # Both skip NULL by coalescing: PostgreSQL's LEAST would, SQLite's min() would not.
    least = func.least if dialect == "postgresql" else func.min
    greatest = func.greatest if dialect == "postgresql" else func.max

    def earlier(old: Any, new: Any) -> ColumnElement[Any]:
        return least(func.coalesce(old, new), func.coalesce(new, old))

    def later(old: Any, new: Any) -> ColumnElement[Any]:
        return greatest(func.coalesce(old, new), func.coalesce(new, old))

    def upsert(table: Table, columns: tuple[str, ...], **merges: _Merge) -> Any:
        insert = _inserting(dialect, table, columns)
        new = insert.excluded
        values = {name: merge(table.c[name], new[name]) for name, merge in merges.items()}
        return insert, values

    attempt, attempt_values = upsert(
        attempts,
        ATTEMPT,
        last_offer=later,
        offer_ended=later,
        first_byte=earlier,
        last_request=later,
        install_reported=earlier,
        restart_seen=earlier,
        target_first=earlier,
        target_last=later,
        other_first=earlier,
        other_last=later,
        last_poll=later,
        downloaded=later,
        slot=func.coalesce,
    )
    old, new = attempts.c, attempt.excluded
    attempt_values |= _pair(old, new, ("first_offer", "first_offer_ring"), first=True)
    attempt_values |= _pair(old, new, ("failure", "failure_code"), first=False)
    attempt_values["concluded"] = and_(
        old.concluded,
        *(
            or_(new[name].is_(None), func.coalesce(attempt_values[name] == old[name], false()))
            for name in (
                "first_offer",
                "last_offer",
                "offer_ended",
                "first_byte",
                "last_request",
                "install_reported",
                "restart_seen",
                "other_last",
                "failure",
                "downloaded",
            )
        ),
    )
    attempt_values["changed"] = new.changed
    download, download_values = upsert(
        downloads,
        (*_ATTEMPT_KEY, *DOWNLOAD),
        completed=earlier,
        first_poll=earlier,
        last_poll=later,
    )
    device, device_values = upsert(
        devices,
        DEVICE,
        first_seen=earlier,
        last_seen=later,
        first_poll=earlier,
        last_poll=later,
        reported_first=earlier,
    )
    old, new = devices.c, device.excluded
    device_values |= _pair(old, new, ("said", "model", "version"), first=False)
    device_values |= _pair(old, new, ("running_since", "running"), first=False)
    device_values |= _pair(old, new, ("pinned", "pin_digest", "pin_until"), first=False)
    device_values["changed"] = new.changed
    claim_values = {**attempt_values, "slot": attempt.excluded.slot, "concluded": false()}

    def joining(insert: Any, key: tuple[str, ...], values: dict[str, Any]) -> Join:
        statement = insert.on_conflict_do_update(index_elements=key, set_=values)
        return Join(
            str(statement.compile(dialect=_DIALECTS[dialect]())),
            together=dialect == "postgresql",
        )

    return Merging(
        attempts=joining(attempt, _ATTEMPT_KEY, attempt_values),
        claims=joining(attempt, _ATTEMPT_KEY, claim_values),
        downloads=joining(download, (*_ATTEMPT_KEY, "started"), download_values),
        devices=joining(device, ("namespace", "device"), device_values),
        surplus_downloads=_surplus_downloads(),
    )


def _inserting(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> Any:
    """An insert of these columns; its parameters are their values, or an array of them each."""
    insert = inserting(dialect)(table)
    if dialect == "sqlite":
        order = {name: place for place, name in enumerate(table.c.keys())}
        assert list(columns) == sorted(columns, key=order.__getitem__)
        return insert.values({name: bindparam(name) for name in columns})
    kinds = [Text() if isinstance(table.c[name].type, Text) else BigInteger() for name in columns]
    arrays = [
        bindparam(name, type_=postgresql.ARRAY(kind))
        for name, kind in zip(columns, kinds, strict=True)
    ]
    typed = [column(name, kind) for name, kind in zip(columns, kinds, strict=True)]
    rows = func.unnest(*arrays).table_valued(*typed, name="given").render_derived()
    return insert.from_select(columns, select(*(rows.c[name] for name in columns)))


def _pair(old: Any, new: Any, names: tuple[str, ...], *, first: bool) -> dict[str, Any]:
    """Columns that are one fact, compared as a whole; the first of them is its time."""
    ours, theirs = tuple_(*(old[name] for name in names)), tuple_(*(new[name] for name in names))
    # With NULL in `theirs` neither holds, and `ours` stays.
    better = or_(old[names[0]].is_(None), theirs < ours if first else theirs > ours)
    return {name: case((better, new[name]), else_=old[name]) for name in names}


def _surplus_downloads() -> Delete:
    others = downloads.alias("others")
    last_kept = (
        select(others.c.started)
        .where(*of_key(others.c))
        .order_by(others.c.started)
        .offset(MAX_DOWNLOADS - 1)
        .limit(1)
        .scalar_subquery()
    )
    return delete(downloads).where(*of_key(downloads.c), downloads.c.started > last_kept)
