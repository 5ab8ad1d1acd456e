"""Removing what nobody looks at any more, in bounded steps."""

from collections.abc import Collection, Iterable, Set
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_server.evidence.reading import read_trips
from otaflux_server.evidence.records import AttemptKey, RunKey
from otaflux_server.evidence.rows import key_parameters, microseconds, of_key
from otaflux_server.evidence.schema import attempts, devices, downloads, trips

_TOGETHER = 500


async def remove_attempts(connection: AsyncConnection, run: RunKey, limit: int) -> int:
    """Removes up to `limit` attempts of the run; how many."""
    query = select(attempts).where(
        *(attempts.c[name] == value for name, value in run._asdict().items())
    )
    return await _remove_attempts(connection, query.limit(limit))


async def remove_trips(
    connection: AsyncConnection, keep: Set[RunKey], tripped_before: datetime
) -> None:
    """Removes old trips of runs of which no attempts are left."""
    old = {
        RunKey(stored.namespace, stored.rollout, stored.trip.run)
        for stored in await read_trips(connection)
        if stored.trip.at < tripped_before
    } - keep
    for some in _slices(sorted(old)):
        columns = [attempts.c[name] for name in RunKey._fields]
        query = select(*columns).where(tuple_(*columns).in_(some)).distinct()
        left = {tuple(row) for row in await connection.execute(query)}
        await _remove(connection, trips, RunKey._fields, [key for key in some if key not in left])


async def remove_unseen(connection: AsyncConnection, unseen_since: datetime, limit: int) -> int:
    """Removes up to `limit` devices last seen before, with their attempts; how many."""
    query = select(devices).where(devices.c.last_seen < microseconds(unseen_since))
    return await _remove_devices(connection, query.limit(limit))


async def remove_beyond(connection: AsyncConnection, most: int, limit: int) -> int:
    """Removes up to `limit` devices of those beyond `most`, the longest unseen; how many."""
    count: int = (await connection.execute(select(func.count()).select_from(devices))).scalar_one()
    if count <= most:
        return 0
    query = select(devices).order_by(devices.c.last_seen).limit(min(limit, count - most))
    return await _remove_devices(connection, query)


async def _remove_devices(connection: AsyncConnection, query: Select[Any]) -> int:
    query = query.with_only_columns(devices.c.namespace, devices.c.device)
    # One that a replica hears of just now stays. Never the other way round than merges: devices
    # are locked first.
    found = await connection.execute(query.with_for_update(skip_locked=True))
    keys = sorted((row.namespace, row.device) for row in found)
    for some in _slices(keys):
        place = tuple_(attempts.c.namespace, attempts.c.device)
        await _remove_attempts(connection, select(attempts).where(place.in_(some)))
        await _remove(connection, devices, ("namespace", "device"), some)
    return len(keys)


async def _remove_attempts(connection: AsyncConnection, query: Select[Any]) -> int:
    columns = [attempts.c[name] for name in AttemptKey._fields]
    query = query.with_only_columns(*columns).order_by(*columns).with_for_update()
    keys = [AttemptKey(*row) for row in await connection.execute(query)]
    if keys:
        # One by one: without statistics PostgreSQL reads the whole run for each list of them.
        rows = [key_parameters(key) for key in keys]
        for table in (downloads, attempts):
            await connection.execute(delete(table).where(*of_key(table.c)), rows)
    return len(keys)


async def _remove(
    connection: AsyncConnection, table: Any, key: Iterable[str], values: Collection[Any]
) -> None:
    if values:
        columns = tuple_(*(table.c[name] for name in key))
        await connection.execute(delete(table).where(columns.in_(list(values))))


def _slices(keys: list[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(keys), _TOGETHER):
        yield keys[start : start + _TOGETHER]
