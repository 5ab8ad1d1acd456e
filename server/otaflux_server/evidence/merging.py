"""Statements that join new facts to stored ones: `INSERT … ON CONFLICT DO UPDATE`.

Each is commutative, associative and idempotent, as `Facts.join` is, and holds the row's lock until
the transaction ends, so that replicas need no other agreement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Delete,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from otaflux_policy.facts import MAX_DOWNLOADS
from otaflux_server.evidence.schema import attempts, devices, downloads

Dialect = Literal["sqlite", "postgresql"]

_Merge = Callable[[Any, Any], ColumnElement[Any]]
_ATTEMPT_KEY = ("namespace", "rollout", "run", "digest", "device")


@dataclass(frozen=True, slots=True)
class Merging:
    """The statements for one database; rows as of `rows`, each statement for many of them."""

    attempts: Insert
    downloads: Insert
    devices: Insert
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

    def upsert(table: Table, **merges: _Merge) -> Any:
        insert = inserting(dialect)(table)
        new = insert.excluded
        values = {name: merge(table.c[name], new[name]) for name, merge in merges.items()}
        return insert, values

    attempt, attempt_values = upsert(
        attempts,
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
            or_(new[name].is_(None), func.coalesce(attempt_values[name] == old[name], False))
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
        downloads, completed=earlier, first_poll=earlier, last_poll=later
    )
    device, device_values = upsert(
        devices,
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
    return Merging(
        attempts=attempt.on_conflict_do_update(index_elements=_ATTEMPT_KEY, set_=attempt_values),
        downloads=download.on_conflict_do_update(
            index_elements=(*_ATTEMPT_KEY, "started"), set_=download_values
        ),
        devices=device.on_conflict_do_update(
            index_elements=("namespace", "device"), set_=device_values
        ),
        surplus_downloads=_surplus_downloads(),
    )


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
        .where(*(others.c[name] == bindparam(f"key_{name}") for name in _ATTEMPT_KEY))
        .order_by(others.c.started)
        .offset(MAX_DOWNLOADS - 1)
        .limit(1)
        .scalar_subquery()
    )
    return delete(downloads).where(
        *(downloads.c[name] == bindparam(f"key_{name}") for name in _ATTEMPT_KEY),
        downloads.c.started > last_kept,
    )
