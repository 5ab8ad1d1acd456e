"""Reading what is stored, in pages."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal_column, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import LateralFromClause

from otaflux_server.evidence import ticks
from otaflux_server.evidence.records import (
    AttemptKey,
    Changes,
    DeviceKey,
    Mark,
    Seen,
    StoredAttempt,
    StoredDevice,
    StoredTrip,
)
from otaflux_server.evidence.rows import (
    DOWNLOAD,
    STORED_ATTEMPT,
    stored_attempts,
    stored_device,
    stored_trip,
)
from otaflux_server.evidence.schema import attempts, devices, downloads, trips

_AFTER = tuple[str | int, ...]


async def read_attempts(
    connection: AsyncConnection, query: Select[Any]
) -> list[tuple[StoredAttempt, int]]:
    """The attempts of a query for rows of `attempts`, in no order, each with what changed it last.

    In one statement: with two, a replica could write between them.
    """
    chosen = query.subquery("chosen")
    same = and_(*(downloads.c[name] == chosen.c[name] for name in AttemptKey._fields))
    columns = [chosen.c[name] for name in STORED_ATTEMPT]
    complete: list[ColumnElement[Any]] = [
        downloads.c[name].label(f"download_{name}") for name in DOWNLOAD
    ]
    if connection.dialect.name == "postgresql":
        theirs = one_by_one(select(*complete).where(same))
        joined = chosen.outerjoin(theirs, true())
        complete = list(theirs.c)
    else:
        joined = chosen.outerjoin(downloads, same)
    rows = await connection.execute(select(*columns, *complete).select_from(joined))
    return stored_attempts(rows.all())


def one_by_one(query: Select[Any]) -> LateralFromClause:
    """The query for each row that it is joined to, by PostgreSQL.

    Without statistics it would rather read a whole run for each of them; OFFSET keeps it from that.
    """
    return query.offset(literal_column("0")).lateral()


async def read_changes(connection: AsyncConnection, mark: Mark, limit: int) -> Changes:
    """See `Store.changed`; within a reading transaction."""
    begun = mark.begun or await ticks.seen(connection)
    found_devices: list[StoredDevice] = []
    after = mark.after
    if not mark.devices_read:
        query, place = _page(devices, DeviceKey._fields, mark.since, after, limit)
        rows = (await connection.execute(query)).all()
        found_devices = [stored_device(row) for row in rows]
        if len(rows) == limit:
            place_after = tuple(rows[-1]._mapping[name] for name in place)
            more = Mark(mark.since, begun, after=place_after)
            return Changes([], found_devices, [], more, complete=False)
        after = None
    query, place = _page(attempts, AttemptKey._fields, mark.since, after, limit)
    found = [
        ((*key,) if mark.since is None else (changed, *key), StoredAttempt(key, facts))
        for (key, facts), changed in await read_attempts(connection, query)
    ]
    stored = [attempt for _, attempt in found]
    if len(found) == limit:
        place_after = max(at for at, _ in found)
        more = Mark(mark.since, begun, devices_read=True, after=place_after)
        return Changes(stored, found_devices, [], more, complete=False)
    tripped = await read_trips(connection)
    return Changes(stored, found_devices, tripped, Mark(since=begun), complete=True)


async def read_trips(connection: AsyncConnection) -> list[StoredTrip]:
    """All of them."""
    query = select(trips).order_by(trips.c.namespace, trips.c.rollout, trips.c.run)
    return [stored_trip(dict(row)) for row in (await connection.execute(query)).mappings()]


def _page(
    table: Any, key: Iterable[str], since: Seen | None, after: _AFTER | None, limit: int
) -> tuple[Select[Any], tuple[str, ...]]:
    """A page of what was not seen before, and the columns by which it is in order."""
    place = tuple(key) if since is None else ("changed", *key)
    columns = [table.c[name] for name in place]
    query = select(table).order_by(*columns).limit(limit)
    if since is not None:
        query = query.where(ticks.unseen(table.c.changed, since))
    if after is not None:
        query = query.where(tuple_(*columns) > after)
    return query, place
