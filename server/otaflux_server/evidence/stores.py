"""The evidence store: what replicas share of devices and attempts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence, Set
from datetime import datetime, timedelta
from typing import Self, cast

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_policy.counts import Trip
from otaflux_policy.served import Replica
from otaflux_server.evidence import pruning
from otaflux_server.evidence.claims import Claimed, Judge, claim_all
from otaflux_server.evidence.databases import BUSY_SECONDS, open_engine, transaction
from otaflux_server.evidence.merging import Dialect, inserting, merging
from otaflux_server.evidence.reading import read_attempts, read_changes, read_trips
from otaflux_server.evidence.records import (
    Batch,
    Changes,
    DeviceFacts,
    DeviceKey,
    Mark,
    Offer,
    RunKey,
    StoredAttempt,
    StoredDevice,
    StoredRun,
    StoredTrip,
)
from otaflux_server.evidence.rows import (
    attempt_row,
    device_row,
    download_rows,
    key_parameters,
    microseconds,
    moment,
    replica_row,
    stored_device,
    stored_replica,
    stored_trip,
    trip_row,
)
from otaflux_server.evidence.schema import attempts, devices, origin, replicas, trips
from otaflux_server.evidence.ticks import this_tick

PAGE = 1000
"""Rows that are read or removed at one time."""

_ALL_RUNS = 1_000_000
_HEARD = (
    "first_offer",
    "last_offer",
    "offer_ended",
    "first_byte",
    "last_request",
    "install_reported",
    "restart_seen",
    "target_last",
    "other_last",
    "failure",
    "last_poll",
    "downloaded",
)
_LIVE_INTERVALS = 3
_REPLICAS_KEPT = timedelta(days=1)


class Store:
    """The database at `url`, brought to our schema before (`databases.migrate`).

    Every method raises StoreUnavailable when the database cannot be used; what it was to write
    may then be tried again, whether or not it was written.
    """

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """`busy_seconds`: how long to wait for another process that writes to a SQLite file.

        Raises:
            InvalidDatabaseUrl: see `databases.database_url`.
        """
        self._engine = open_engine(url, busy_seconds=busy_seconds)
        self._dialect = cast(Dialect, self._engine.dialect.name)
        # SQLite has one writer: waiting here is cheaper than its polling for the lock.
        self._writing = asyncio.Lock() if self._dialect == "sqlite" else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()

    async def merge(self, batch: Batch) -> None:
        """Joins the facts to what is stored, in one transaction.

        Raises:
            FactsRefused: the database never takes one of them; none of the batch is stored.
        """
        # In order, so that two replicas never wait for each other's rows.
        facts = sorted(batch.attempts.items(), key=lambda item: item[0])
        contacts = sorted(batch.devices.items(), key=lambda item: item[0])
        statements = merging(self._dialect)
        complete = [row for key, known in facts for row in download_rows(key, known)]
        async with self._write() as connection:
            tick = await this_tick(connection)
            if contacts:
                rows = [device_row(key, known, tick) for key, known in contacts]
                await statements.devices.run(connection, rows)
            if facts:
                rows = [attempt_row(key, known, tick) for key, known in facts]
                await statements.attempts.run(connection, rows)
            if complete:
                await statements.downloads.run(connection, complete)
                keys = [key_parameters(key) for key, known in facts if known.downloads]
                await connection.execute(statements.surplus_downloads, keys)

    async def claim(self, offer: Offer, limit: int | None, judge: Judge) -> Claimed:
        """Writes the offer through, unless the ring has `limit` attempts in flight (None: any).

        Serialised per ring over all replicas. A device whose attempt is in flight already keeps
        its slot; one that has its outcome gets none. `judge` judges facts at the present time.

        Raises:
            FactsRefused: the database never takes one of the values.
        """
        return (await self.claim_all([offer], limit, judge))[0]

    async def claim_all(
        self, offers: Sequence[Offer], limit: int | None, judge: Judge
    ) -> list[Claimed]:
        """`claim` for offers of one ring of one run, first come, in one transaction.

        Raises:
            ValueError: they are of several rings or runs.
            FactsRefused: the database never takes one of the values; none is claimed.
        """
        async with self._write() as connection:
            return await claim_all(connection, self._dialect, offers, limit, judge)

    async def changed(self, mark: Mark | None = None, limit: int = PAGE) -> Changes:
        """A page of what was merged since `mark` was made (None: everything).

        Call again with the page's mark: at once until it is complete, then whenever you like.
        Nothing that was committed is left out; something may come twice. What is pruned does not
        show.
        """
        async with transaction(self._engine, writes=False) as connection:
            return await read_changes(connection, mark or Mark(), limit)

    async def trip(self, namespace: str, rollout: str, trip: Trip) -> Trip:
        """Latches the trip; returns the one that stands: the first of the run that was stored."""
        row = trip_row(namespace, rollout, trip)
        latch = inserting(self._dialect)(trips).on_conflict_do_nothing()
        query = select(trips).where(*(trips.c[name] == row[name] for name in RunKey._fields))
        async with self._write() as connection:
            await connection.execute(latch, row)
            return stored_trip(dict((await connection.execute(query)).mappings().one())).trip

    async def trips(self) -> list[StoredTrip]:
        """All trips that are stored."""
        async with transaction(self._engine, writes=False) as connection:
            return await read_trips(connection)

    async def heartbeat(self, replica: Replica) -> None:
        """Tells the other replicas of this one; forgets those not heard of for a day."""
        insert = inserting(self._dialect)(replicas)
        beat = insert.on_conflict_do_update(
            index_elements=["name"],
            set_={name: insert.excluded[name] for name in ("seen_at", "replica")},
        )
        gone = microseconds(replica.seen_at - _REPLICAS_KEPT)
        async with self._write() as connection:
            await connection.execute(delete(replicas).where(replicas.c.seen_at < gone))
            await connection.execute(beat, replica_row(replica))

    async def replicas(self, now: datetime, *, interval: float = 2.0) -> list[Replica]:
        """All replicas by name; `live` are those seen within three heartbeats (`interval`: s).

        Their clocks are taken to agree with ours that far.
        """
        query = select(replicas).order_by(replicas.c.name)
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
        oldest = now - timedelta(seconds=_LIVE_INTERVALS * interval)
        known = [stored_replica(dict(row)) for row in rows]
        return [replica.model_copy(update={"live": replica.seen_at >= oldest}) for replica in known]

    async def restored_at(self) -> datetime | None:
        """When the database was restored from a copy last; None: never."""
        async with transaction(self._engine, writes=False) as connection:
            stored = (await connection.execute(select(func.max(origin.c.restored_at)))).scalar_one()
        return moment(stored)

    async def mark_restored(self, at: datetime) -> None:
        """Notes that the database was restored from a copy."""
        noted = update(origin).values(restored_at=microseconds(at))
        async with self._write() as connection:
            await connection.execute(noted)

    async def attempts(self, run: RunKey, *, page: int = PAGE) -> AsyncIterator[StoredAttempt]:
        """All attempts of the run in order of digest and device, read page by page."""
        after: tuple[str, str] | None = None
        while True:
            found = await self.attempts_page(run, after, page)
            for attempt in found:
                yield attempt
            if len(found) < page:
                return
            after = (found[-1].key.digest, found[-1].key.device)

    async def attempts_page(
        self, run: RunKey, after: tuple[str, str] | None = None, limit: int = PAGE
    ) -> list[StoredAttempt]:
        """Up to `limit` attempts of the run, those behind the digest and device `after`."""
        query = select(attempts).where(
            *(attempts.c[name] == value for name, value in run._asdict().items())
        )
        if after is not None:
            query = query.where(tuple_(attempts.c.digest, attempts.c.device) > after)
        query = query.order_by(attempts.c.digest, attempts.c.device).limit(limit)
        async with transaction(self._engine, writes=False) as connection:
            found = await read_attempts(connection, query)
        return sorted((attempt for attempt, _ in found), key=lambda attempt: attempt.key)

    async def device_attempts(self, device: DeviceKey, limit: int = PAGE) -> list[StoredAttempt]:
        """The device's attempts, those of the highest runs first."""
        query = (
            select(attempts)
            .where(attempts.c.namespace == device.namespace, attempts.c.device == device.device)
            .order_by(attempts.c.run.desc(), attempts.c.rollout, attempts.c.digest)
            .limit(limit)
        )
        async with transaction(self._engine, writes=False) as connection:
            found = await read_attempts(connection, query)
        stored = [attempt for attempt, _ in found]
        return sorted(stored, key=lambda a: (-a.key.run, a.key.rollout, a.key.digest))

    async def device(self, key: DeviceKey) -> DeviceFacts | None:
        """What is stored of the device."""
        query = select(devices).where(
            devices.c.namespace == key.namespace, devices.c.device == key.device
        )
        async with transaction(self._engine, writes=False) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else stored_device(row).facts

    async def devices(self, *, page: int = PAGE) -> AsyncIterator[StoredDevice]:
        """All devices in order of namespace and id, read page by page."""
        after: DeviceKey | None = None
        while True:
            found = await self.devices_page(after, page)
            for device in found:
                yield device
            if len(found) < page:
                return
            after = found[-1].key

    async def devices_page(
        self, after: DeviceKey | None = None, limit: int = PAGE
    ) -> list[StoredDevice]:
        """Up to `limit` devices, those behind `after`."""
        query = select(devices)
        if after is not None:
            query = query.where(tuple_(devices.c.namespace, devices.c.device) > tuple(after))
        query = query.order_by(devices.c.namespace, devices.c.device).limit(limit)
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).all()
        return [stored_device(row) for row in rows]

    async def runs(self, limit: int = PAGE) -> list[StoredRun]:
        """Runs of which facts are stored, the longest unheard of first."""
        greatest = func.greatest if self._dialect == "postgresql" else func.max
        heard = func.max(greatest(*(func.coalesce(attempts.c[name], 0) for name in _HEARD)))
        key = (attempts.c.namespace, attempts.c.rollout, attempts.c.run)
        query = (
            select(*key, func.count().label("attempts"), heard.label("heard"))
            .group_by(*key)
            .order_by(heard, *key)
            .limit(limit)
        )
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).all()
        return [StoredRun(RunKey(*row[:3]), row[3], moment(row[4] or None)) for row in rows]

    async def newest_run(self, namespace: str, rollout: str) -> int:
        """The highest run of which facts are stored; 0 where there is none."""
        query = (
            select(attempts.c.run)
            .where(attempts.c.namespace == namespace, attempts.c.rollout == rollout)
            .order_by(attempts.c.run.desc())
            .limit(1)
        )
        async with transaction(self._engine, writes=False) as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def prune_run(self, run: RunKey, limit: int = PAGE) -> int:
        """Removes up to `limit` attempts of a finished run; how many: call again until 0."""
        async with self._write() as connection:
            return await pruning.remove_attempts(connection, run, limit)

    async def prune_runs(self, keep: Set[RunKey], unheard_since: datetime) -> int:
        """Removes runs not to `keep` and last heard of before: attempts and trips.

        Returns how many attempts; in several transactions, so that others write meanwhile.
        """
        removed = 0
        for run in await self.runs(_ALL_RUNS):
            if run.key not in keep and (run.last_fact is None or run.last_fact < unheard_since):
                while step := await self.prune_run(run.key):
                    removed += step
        async with self._write() as connection:
            await pruning.remove_trips(connection, keep, unheard_since)
        return removed

    async def prune_devices(self, unseen_since: datetime, limit: int = PAGE) -> int:
        """Removes up to `limit` devices last seen before, with their attempts.

        Returns how many: call again until 0.
        """
        async with self._write() as connection:
            return await pruning.remove_unseen(connection, unseen_since, limit)

    async def cap_devices(self, most: int, limit: int = PAGE) -> int:
        """Removes up to `limit` of the devices beyond `most`, the longest unseen first.

        Returns how many: call again until 0.
        """
        async with self._write() as connection:
            return await pruning.remove_beyond(connection, most, limit)

    @contextlib.asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        async with (
            self._writing or contextlib.nullcontext(),
            transaction(self._engine, writes=True) as connection,
        ):
            yield connection
