"""Which transaction a row was changed by, so that replicas read only what is new.

PostgreSQL numbers its transactions, and says which of them a reading could see; SQLite has one
writer at a time, and `origin.tick` counts.
"""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_server.evidence.records import Seen
from otaflux_server.evidence.rows import microseconds
from otaflux_server.evidence.schema import attempts, devices, origin

_CURRENT = text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
_SNAPSHOT = text("SELECT CAST(pg_current_snapshot() AS text)")


async def this_tick(connection: AsyncConnection) -> int:
    """The number of this writing transaction."""
    if connection.dialect.name == "postgresql":
        return int((await connection.execute(_CURRENT)).scalar_one())
    counted = update(origin).values(tick=origin.c.tick + 1).returning(origin.c.tick)
    return int((await connection.execute(counted)).scalar_one())


async def seen(connection: AsyncConnection) -> Seen:
    """What the statements that follow in this transaction see at least."""
    if connection.dialect.name == "postgresql":
        snapshot: str = (await connection.execute(_SNAPSHOT)).scalar_one()
        _, below, running = snapshot.split(":")
        return Seen(int(below), tuple(int(tick) for tick in running.split(",") if tick))
    tick = (await connection.execute(select(func.max(origin.c.tick)))).scalar_one()
    return Seen(int(tick or 0) + 1)


def unseen(changed: ColumnElement[int], known: Seen) -> ColumnElement[bool]:
    """Whether a row that `changed` then was not, or not so, seen before."""
    later = changed >= known.below
    return or_(later, changed.in_(known.but)) if known.but else later


async def renumber(connection: AsyncConnection) -> None:
    """Takes back numbers that this PostgreSQL cluster has not given out yet: they are another's.

    They would look new for ever. Such a database is a copy, and marked as restored.
    """
    xmax = func.pg_snapshot_xmax(func.pg_current_snapshot())
    copied = False
    for table in (devices, attempts):
        # In one statement: what it sees is older than what it is compared with.
        newest = select(func.max(table.c.changed) >= cast(cast(xmax, Text), BigInteger))
        if (await connection.execute(newest)).scalar_one():
            await connection.execute(update(table).values(changed=0))
            copied = True
    if copied:
        await connection.execute(update(origin).values(restored_at=microseconds(datetime.now(UTC))))
