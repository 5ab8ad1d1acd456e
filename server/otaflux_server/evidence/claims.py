"""Claims: first offers, written through within the ring's limit."""

import hashlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_policy.facts import Facts, FirstOffer
from otaflux_server.evidence.merging import Dialect, merging
from otaflux_server.evidence.records import AttemptKey, Offer, StoredAttempt
from otaflux_server.evidence.rows import attempt_row, key_parameters, slot_of, stored_attempts
from otaflux_server.evidence.schema import OPEN_SLOTS, attempts, downloads

InFlight = Callable[[Facts], bool]
"""Whether an attempt with these facts takes a slot now."""

MOST_TOGETHER = 1000
"""Offers that are claimed in one transaction."""

_PAGE = 500
_Seen = tuple[AttemptKey, int]
"""An attempt, and how many changes it had when it was judged."""


class Claim(StrEnum):
    """What became of an offer."""

    GRANTED = "Granted"
    HELD = "Held"
    """The device's attempt was in flight already: it keeps its slot."""
    LIMITED = "Limited"
    """The ring has as many attempts in flight as it may."""


async def claim_all(
    connection: AsyncConnection,
    dialect: Dialect,
    offers: Sequence[Offer],
    limit: int | None,
    in_flight: InFlight,
) -> list[Claim]:
    """See `Store.claim_all`; within a writing transaction."""
    if not offers:
        return []
    slots = {slot_of(offer.key, offer.ring) for offer in offers}
    if len(slots) > 1 or len(offers) > MOST_TOGETHER:
        raise ValueError(f"claim up to {MOST_TOGETHER} offers of one ring of one run at a time")
    slot = slots.pop()
    if dialect == "postgresql" and limit is not None:
        # SQLite's writing transaction is the only one anyway.
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(slot)}
        )
    columns = tuple_(*(attempts.c[name] for name in AttemptKey._fields))
    keys = [tuple(offer.key) for offer in offers]
    found = await _read(connection, select(attempts).where(columns.in_(keys)))
    known = {attempt.key: attempt.facts for attempt, _ in found}
    free, concluded = len(offers), list[_Seen]()
    if limit is not None:
        taken, concluded = await _taken(connection, slot, limit, in_flight)
        free = limit - taken
    claims: list[Claim] = []
    granted: dict[AttemptKey, Offer] = {}
    for offer in offers:
        stored = known.get(offer.key)
        began = stored is not None and stored.first_offer is not None and in_flight(stored)
        if began or offer.key in granted:
            claims.append(Claim.HELD)
        elif len(granted) >= free:
            claims.append(Claim.LIMITED)
        else:
            granted[offer.key] = offer
            claims.append(Claim.GRANTED)
    if granted:
        await _write(connection, dialect, [granted[key] for key in sorted(granted)])
    await _conclude(connection, [seen for seen in concluded if seen[0] not in granted])
    return claims


async def _write(connection: AsyncConnection, dialect: Dialect, offers: list[Offer]) -> None:
    rows = [
        attempt_row(
            offer.key,
            Facts(first_offer=FirstOffer(offer.at, offer.ring), last_offer=offer.at),
        )
        for offer in offers
    ]
    await connection.execute(merging(dialect).attempts, rows)
    # A device that was in another ring before takes a slot of this one now.
    await _set(
        connection,
        [offer.key for offer in offers],
        {"slot": slot_of(offers[0].key, offers[0].ring), "concluded": False},
    )


async def _taken(
    connection: AsyncConnection, slot: str, limit: int, in_flight: InFlight
) -> tuple[int, list[_Seen]]:
    """Slots taken, counted up to `limit`, and the attempts that were found to take none."""
    taken, concluded, after = 0, list[_Seen](), None
    while True:
        query = (
            select(attempts)
            .where(attempts.c.slot == slot, OPEN_SLOTS)
            .order_by(attempts.c.digest, attempts.c.device)
            .limit(_PAGE)
        )
        if after is not None:
            query = query.where(tuple_(attempts.c.digest, attempts.c.device) > after)
        page = await _read(connection, query)
        for (key, facts), changes in page:
            if in_flight(facts):
                taken += 1
            else:
                concluded.append((key, changes))
        if taken >= limit or len(page) < _PAGE:
            return taken, concluded
        last = page[-1][0].key
        after = (last.digest, last.device)


async def _conclude(connection: AsyncConnection, seen: Sequence[_Seen]) -> None:
    """Marks the attempts, so that each is judged once after its facts and not with every claim.

    Those that a replica is writing to are left for the next time: waiting for them, with rows of
    our own locked, could be for ever.
    """
    for start in range(0, len(seen), _PAGE):
        expected = dict(seen[start : start + _PAGE])
        columns = [attempts.c[name] for name in AttemptKey._fields]
        query = (
            select(*columns, attempts.c.changes)
            .where(tuple_(*columns).in_([tuple(key) for key in expected]))
            .with_for_update(skip_locked=True)
        )
        rows = (await connection.execute(query)).all()
        same = [key for *values, n in rows if expected[key := AttemptKey(*values)] == n]
        if same:
            await _set(connection, same, {"concluded": True})


async def _read(connection: AsyncConnection, query: Any) -> list[tuple[StoredAttempt, int]]:
    """Attempts, each with its number of changes."""
    rows = [dict(row) for row in (await connection.execute(query)).mappings()]
    if not rows:
        return []
    keys = [tuple(row[name] for name in AttemptKey._fields) for row in rows]
    columns = tuple_(*(downloads.c[name] for name in AttemptKey._fields))
    complete = await connection.execute(select(downloads).where(columns.in_(keys)))
    found = stored_attempts(rows, [dict(row) for row in complete.mappings()])
    return [(attempt, row["changes"]) for attempt, row in zip(found, rows, strict=True)]


async def _set(
    connection: AsyncConnection, keys: Sequence[AttemptKey], values: dict[str, Any]
) -> None:
    statement = (
        update(attempts)
        .where(*(attempts.c[name] == bindparam(f"key_{name}") for name in AttemptKey._fields))
        .values({name: bindparam(f"new_{name}") for name in values})
    )
    new = {f"new_{name}": value for name, value in values.items()}
    await connection.execute(statement, [{**key_parameters(key), **new} for key in keys])


def _lock_key(slot: str) -> int:
    return int.from_bytes(hashlib.sha256(slot.encode()).digest()[:8], "big", signed=True)
