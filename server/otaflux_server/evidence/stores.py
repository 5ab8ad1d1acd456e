"""The evidence store: what replicas share of devices and attempts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, cast

from sqlalchemy import bindparam, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_policy.facts import Facts
from otaflux_server.evidence.claims import Claim, InFlight, claim_all
from otaflux_server.evidence.databases import BUSY_SECONDS, open_engine, transaction
from otaflux_server.evidence.merging import Dialect, merging
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Offer,
    RunKey,
    StoredAttempt,
    StoredDevice,
    StoredRun,
)
from otaflux_server.evidence.rows import (
    attempt_row,
    device_row,
    download_rows,
    key_parameters,
    microseconds,
    moment,
    stored_attempts,
    stored_device,
)
from otaflux_server.evidence.schema import attempts, devices, downloads

PAGE = 1000
"""Rows that are read at one time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts to be merged: all of them or, on an error, none."""

    attempts: Mapping[AttemptKey, Facts] = field(default_factory=dict)
    devices: Mapping[DeviceKey, DeviceFacts] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.attempts) + len(self.devices)


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
            if contacts:
                rows = [device_row(key, known) for key, known in contacts]
                await connection.execute(statements.devices, rows)
            if facts:
                rows = [attempt_row(key, known) for key, known in facts]
                await connection.execute(statements.attempts, rows)
            if complete:
                await connection.execute(statements.downloads, complete)
                keys = [key_parameters(key) for key, known in facts if known.downloads]
                await connection.execute(statements.surplus_downloads, keys)

    async def claim(self, offer: Offer, limit: int | None, in_flight: InFlight) -> Claim:
        """Writes the offer through, unless the ring has `limit` attempts in flight (None: any).

        Serialised per ring over all replicas. A device whose attempt is in flight already keeps
        its slot. `in_flight` judges facts at the present time.
        """
        return (await self.claim_all([offer], limit, in_flight))[0]

    async def claim_all(
        self, offers: Sequence[Offer], limit: int | None, in_flight: InFlight
    ) -> list[Claim]:
        """`claim` for offers of one ring of one run, first come, in one transaction.

        Raises:
            ValueError: they are of several rings or runs.
        """
        async with self._write() as connection:
            return await claim_all(connection, self._dialect, offers, limit, in_flight)

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
        query = select(attempts).where(*_of_run(attempts, run))
        place = tuple_(attempts.c.digest, attempts.c.device)
        if after is not None:
            query = query.where(place > after)
        query = query.order_by(attempts.c.digest, attempts.c.device).limit(limit)
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
            if not rows:
                return []
            first, last = rows[0], rows[-1]
            place = tuple_(downloads.c.digest, downloads.c.device)
            complete = await connection.execute(
                select(downloads).where(
                    *_of_run(downloads, run),
                    place >= (first["digest"], first["device"]),
                    place <= (last["digest"], last["device"]),
                )
            )
            return stored_attempts(_plain(rows), _plain(complete.mappings()))

    async def device_attempts(self, device: DeviceKey, limit: int = PAGE) -> list[StoredAttempt]:
        """The device's attempts, those of the highest runs first."""
        query = (
            select(attempts)
            .where(attempts.c.namespace == device.namespace, attempts.c.device == device.device)
            .order_by(attempts.c.run.desc(), attempts.c.rollout, attempts.c.digest)
            .limit(limit)
        )
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
            keys = [tuple(row[name] for name in AttemptKey._fields) for row in rows]
            key = tuple_(*(downloads.c[name] for name in AttemptKey._fields))
            complete = await connection.execute(select(downloads).where(key.in_(keys)))
            return stored_attempts(_plain(rows), _plain(complete.mappings()))

    async def device(self, key: DeviceKey) -> DeviceFacts | None:
        """What is stored of the device."""
        query = select(devices).where(
            devices.c.namespace == key.namespace, devices.c.device == key.device
        )
        async with transaction(self._engine, writes=False) as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else stored_device(dict(row)).facts

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
            rows = (await connection.execute(query)).mappings().all()
        return [stored_device(row) for row in _plain(rows)]

    async def runs(self, limit: int = PAGE) -> list[StoredRun]:
        """Runs of which facts are stored, the longest unheard of first."""
        heard = func.max(
            func.coalesce(attempts.c.last_poll, attempts.c.last_offer, attempts.c.target_last)
        )
        key = (attempts.c.namespace, attempts.c.rollout, attempts.c.run)
        query = (
            select(*key, func.count().label("attempts"), heard.label("heard"))
            .group_by(*key)
            .order_by(heard.nulls_first())
            .limit(limit)
        )
        async with transaction(self._engine, writes=False) as connection:
            rows = (await connection.execute(query)).all()
        return [StoredRun(RunKey(*row[:3]), row[3], moment(row[4])) for row in rows]

    async def newest_run(self, namespace: str, rollout: str) -> int:
        """The highest run of which facts are stored; 0 where there is none."""
        query = select(func.max(attempts.c.run)).where(
            attempts.c.namespace == namespace, attempts.c.rollout == rollout
        )
        async with transaction(self._engine, writes=False) as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def prune_run(self, run: RunKey, limit: int = PAGE) -> int:
        """Removes up to `limit` attempts of a finished run; how many: call again until 0."""
        async with self._write() as connection:
            query = (
                select(attempts.c.digest, attempts.c.device)
                .where(*_of_run(attempts, run))
                .order_by(attempts.c.digest, attempts.c.device)
                .limit(limit)
                .with_for_update()
            )
            keys = [
                key_parameters(AttemptKey(*run, *row)) for row in await connection.execute(query)
            ]
            if keys:
                for table in (downloads, attempts):
                    await connection.execute(_delete_attempt(table), keys)
            return len(keys)

    async def prune_devices(self, unseen_since: datetime, limit: int = PAGE) -> int:
        """Removes up to `limit` devices last seen before; their attempts go with their runs.

        Returns how many: call again until 0.
        """
        unseen = devices.c.last_seen < microseconds(unseen_since)
        oldest = select(devices.c.namespace, devices.c.device).where(unseen).limit(limit)
        # Looked at twice: a replica may hear of the device in between.
        query = delete(devices).where(
            tuple_(devices.c.namespace, devices.c.device).in_(oldest), unseen
        )
        async with self._write() as connection:
            return (await connection.execute(query)).rowcount

    @contextlib.asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        async with (
            self._writing or contextlib.nullcontext(),
            transaction(self._engine, writes=True) as connection,
        ):
            yield connection


def _of_run(table: Any, run: RunKey) -> tuple[Any, ...]:
    return tuple(table.c[name] == value for name, value in run._asdict().items())


def _delete_attempt(table: Any) -> Any:
    return delete(table).where(
        *(table.c[name] == bindparam(f"key_{name}") for name in AttemptKey._fields)
    )


def _plain(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]
