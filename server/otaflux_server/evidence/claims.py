"""Claims: first offers, written through within the ring's limit."""

import hashlib
import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    Select,
    Text,
    bindparam,
    func,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from otaflux_policy.attempts import IN_FLIGHT, AttemptState
from otaflux_policy.facts import Facts, FirstOffer
from otaflux_server.evidence.merging import Dialect, merging
from otaflux_server.evidence.reading import one_by_one, read_attempts
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceFacts,
    DeviceKey,
    Offer,
    Pin,
    RunKey,
)
from otaflux_server.evidence.rows import (
    attempt_row,
    device_row,
    key_parameters,
    of_key,
    slot_of,
    storable,
)
from otaflux_server.evidence.schema import OPEN_SLOTS, attempts
from otaflux_server.evidence.ticks import this_tick

Judge = Callable[[Facts], AttemptState | None]
"""How far an attempt with these facts is now; None where there is none."""

MOST_TOGETHER = 1000
"""Offers that are claimed in one transaction."""

_GRANTABLE = frozenset({None, AttemptState.WITHDRAWN, AttemptState.NOT_REQUESTED})
_PAGE = 500
_Read = tuple[AttemptKey, int]
"""An attempt, and the transaction that had changed it last when it was judged."""


class Claim(StrEnum):
    """What became of an offer."""

    GRANTED = "Granted"
    HELD = "Held"
    """The device's attempt was in flight already: it keeps its slot."""
    LIMITED = "Limited"
    """The ring has as many attempts in flight as it may."""
    CONCLUDED = "Concluded"
    """The attempt has its outcome already: Updated, Failed or TimedOut."""


class Claimed(NamedTuple):
    """What became of an offer, and all that is stored of its attempt after that."""

    claim: Claim
    facts: Facts


async def claim_all(
    connection: AsyncConnection,
    dialect: Dialect,
    offers: Sequence[Offer],
    limit: int | None,
    judge: Judge,
) -> list[Claimed]:
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
    known = await _known(connection, [offer.key for offer in offers])
    free, concluded = len(offers), list[_Read]()
    if limit is not None:
        free, concluded = await _free(connection, slot, limit, len(offers), judge)
    claims: list[Claim] = []
    granted: dict[AttemptKey, Offer] = {}
    for offer in offers:
        claim = Claim.HELD if offer.key in granted else _verdict(known.get(offer.key), judge)
        if claim is Claim.GRANTED and len(granted) >= free:
            claim = Claim.LIMITED
        if claim is Claim.GRANTED:
            granted[offer.key] = offer
        claims.append(claim)
    pins = {
        DeviceKey(offer.key.namespace, offer.key.device): offer.pin
        for offer, claim in zip(offers, claims, strict=True)
        if offer.pin is not None and claim in (Claim.GRANTED, Claim.HELD)
    }
    # In the order of `Store.merge`: devices first, each by key.
    tick = await this_tick(connection) if pins or granted else 0
    if pins:
        await _pin(connection, dialect, pins, tick)
    if granted:
        written = [granted[key] for key in sorted(granted)]
        await _write(connection, dialect, written, tick)
        if dialect == "postgresql":
            # A replica may have told more between our reading and our writing.
            known |= await _known(connection, list(granted))
        else:
            known |= {
                offer.key: known.get(offer.key, Facts()).join(_facts(offer)) for offer in written
            }
    await _conclude(connection, [read for read in concluded if read[0] not in granted])
    return [
        Claimed(claim, known.get(offer.key, Facts()))
        for offer, claim in zip(offers, claims, strict=True)
    ]


def _verdict(stored: Facts | None, judge: Judge) -> Claim:
    """What becomes of the offer while the ring has room."""
    state = None if stored is None else judge(stored)
    if state in _GRANTABLE:
        return Claim.GRANTED
    if state in IN_FLIGHT:
        # An attempt that was never offered, for all that is stored, has no slot to keep.
        offered = stored is not None and stored.first_offer is not None
        return Claim.HELD if offered else Claim.GRANTED
    return Claim.CONCLUDED


async def _known(
    connection: AsyncConnection, keys: Sequence[AttemptKey]
) -> dict[AttemptKey, Facts]:
    """What is stored of these attempts of one run (and perhaps of others)."""
    devices_of: dict[str, list[str]] = {}
    for key in keys:
        devices_of.setdefault(key.digest, []).append(key.device)
    known: dict[AttemptKey, Facts] = {}
    for digest, ids in devices_of.items():
        of_run = select(attempts).where(
            *(attempts.c[name] == getattr(keys[0], name) for name in RunKey._fields),
            attempts.c.digest == digest,
        )
        query = _of_devices(connection, of_run, ids)
        known |= {
            attempt.key: attempt.facts for attempt, _ in await read_attempts(connection, query)
        }
    return known


def _of_devices(connection: AsyncConnection, query: Select[Any], devices: list[str]) -> Select[Any]:
    """One parameter however many devices there are: the statement stays the same."""
    if connection.dialect.name == "postgresql":
        named = bindparam("devices", devices, type_=postgresql.ARRAY(Text()))
        asked = func.unnest(named).table_valued("device", name="asked").render_derived()
        found = one_by_one(query.where(attempts.c.device == asked.c.device))
        return select(found).select_from(asked.join(found, true()))
    each = func.json_each(json.dumps(devices)).table_valued("value")
    return query.where(attempts.c.device.in_(select(each.c.value)))


async def _pin(
    connection: AsyncConnection, dialect: Dialect, pins: dict[DeviceKey, Pin], tick: int
) -> None:
    rows = [
        device_row(key, DeviceFacts(first_seen=pin.at, last_seen=pin.at, pin=pin), tick)
        for key, pin in sorted(pins.items())
    ]
    await merging(dialect).devices.run(connection, rows)


async def _write(
    connection: AsyncConnection, dialect: Dialect, offers: list[Offer], tick: int
) -> None:
    rows = [attempt_row(offer.key, _facts(offer), tick) for offer in offers]
    # A device that was in another ring before takes a slot of this one now.
    await merging(dialect).claims.run(connection, rows)


def _facts(offer: Offer) -> Facts:
    return Facts(first_offer=FirstOffer(offer.at, storable(offer.ring)), last_offer=offer.at)


async def _free(
    connection: AsyncConnection, slot: str, limit: int, wanted: int, judge: Judge
) -> tuple[int, list[_Read]]:
    """Free slots, and the attempts that were found to take none.

    No more are counted than `wanted` needs, and nothing is judged where there is room anyway.
    """
    open_slots = select(attempts.c.device).where(attempts.c.slot == slot, OPEN_SLOTS)
    some = open_slots.limit(max(0, limit - wanted) + 1).subquery()
    counted: int = (await connection.execute(select(func.count()).select_from(some))).scalar_one()
    if counted + wanted <= limit:
        return limit - counted, []
    taken, concluded, after = 0, list[_Read](), None
    while True:
        query = (
            select(attempts)
            .where(attempts.c.slot == slot, OPEN_SLOTS)
            .order_by(attempts.c.digest, attempts.c.device)
            .limit(_PAGE)
        )
        if after is not None:
            query = query.where(tuple_(attempts.c.digest, attempts.c.device) > after)
        page = await read_attempts(connection, query)
        for (key, facts), changed in page:
            if judge(facts) in IN_FLIGHT:
                taken += 1
            else:
                concluded.append((key, changed))
        if taken >= limit or len(page) < _PAGE:
            return limit - taken, concluded
        after = max((attempt.key.digest, attempt.key.device) for attempt, _ in page)


async def _conclude(connection: AsyncConnection, read: Sequence[_Read]) -> None:
    """Marks the attempts, so that each is judged once after its facts and not with every claim.

    Those that a replica is writing to are left for the next time: waiting for them, with rows of
    our own locked, could be for ever.
    """
    for start in range(0, len(read), _PAGE):
        expected = dict(read[start : start + _PAGE])
        columns = [attempts.c[name] for name in AttemptKey._fields]
        query = (
            select(*columns, attempts.c.changed)
            .where(tuple_(*columns).in_([tuple(key) for key in expected]))
            .with_for_update(skip_locked=True)
        )
        rows = (await connection.execute(query)).all()
        same = [key for *values, last in rows if expected[key := AttemptKey(*values)] == last]
        if same:
            concluded = update(attempts).where(*of_key(attempts.c)).values(concluded=True)
            await connection.execute(concluded, [key_parameters(key) for key in same])


def _lock_key(slot: str) -> int:
    return int.from_bytes(hashlib.sha256(slot.encode()).digest()[:8], "big", signed=True)
