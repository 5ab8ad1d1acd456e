"""The tables. Times are integer microseconds since 1970 UTC; NULL where nothing is known."""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, Table, Text, text

# Text is compared by its bytes on both databases: the order of Python's strings.
TEXT = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

OPEN_SLOTS = text("NOT concluded AND slot IS NOT NULL")
"""Of `attempts`: SQLite uses the index only for a query in the index's own words; and only where
the primary key is of no use, hence one column for what names a slot."""


def _key(name: str) -> Column[str]:
    return Column(name, TEXT, primary_key=True)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger)


def _attempt_key() -> tuple[Column[Any], ...]:
    """What names an attempt (`AttemptKey`)."""
    run = Column("run", BigInteger, primary_key=True, autoincrement=False)
    return _key("namespace"), _key("rollout"), run, _key("digest"), _key("device")


def _changed() -> Column[int]:
    """The transaction that changed the row last (`Store.changed`)."""
    return Column("changed", BigInteger, nullable=False)


attempts = Table(
    "attempts",
    metadata,
    *_attempt_key(),
    _time("first_offer"),
    Column("first_offer_ring", TEXT),
    _time("last_offer"),
    _time("offer_ended"),
    _time("first_byte"),
    _time("last_request"),
    _time("install_reported"),
    _time("restart_seen"),
    _time("target_first"),
    _time("target_last"),
    _time("other_first"),
    _time("other_last"),
    _time("failure"),
    Column("failure_code", TEXT),
    _time("last_poll"),
    # No facts, but what claims look up: the newest complete download, the ring whose slot the
    # attempt takes (`rows.slot_of`), and whether it was found to take none any more. A new fact
    # that could change that sets `concluded` back; a verdict on facts that have changed since is
    # not written.
    _time("downloaded"),
    Column("slot", TEXT),
    Column("concluded", Boolean, nullable=False, server_default=text("false")),
    _changed(),
    sqlite_with_rowid=False,
)
Index(
    "attempts_slots",
    attempts.c.slot,
    attempts.c.digest,
    attempts.c.device,
    postgresql_where=OPEN_SLOTS,
    sqlite_where=OPEN_SLOTS,
)
Index("attempts_devices", attempts.c.namespace, attempts.c.device)
Index("attempts_changed", attempts.c.changed)

downloads = Table(
    "downloads",
    metadata,
    *_attempt_key(),
    Column("started", BigInteger, primary_key=True, autoincrement=False),
    Column("completed", BigInteger, nullable=False),
    _time("first_poll"),
    _time("last_poll"),
    sqlite_with_rowid=False,
)

devices = Table(
    "devices",
    metadata,
    _key("namespace"),
    _key("device"),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    _time("first_poll"),
    _time("last_poll"),
    _time("said"),
    Column("model", TEXT),
    Column("version", TEXT),
    _time("reported_first"),
    _time("running_since"),
    Column("running", TEXT),
    _time("pinned"),
    Column("pin_digest", TEXT),
    _time("pin_until"),
    _changed(),
    sqlite_with_rowid=False,
)
Index("devices_seen", devices.c.last_seen)
Index("devices_changed", devices.c.changed)

trips = Table(
    "trips",
    metadata,
    _key("namespace"),
    _key("rollout"),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("ring", TEXT, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

replicas = Table(
    "replicas",
    metadata,
    _key("name"),
    Column("seen_at", BigInteger, nullable=False),
    Column("replica", TEXT, nullable=False),
    sqlite_with_rowid=False,
)
"""`replica` is a `Replica` as JSON."""

origin = Table(
    "origin",
    metadata,
    Column("tick", BigInteger, nullable=False),
    _time("restored_at"),
)
"""One row. `tick` counts SQLite's writing transactions; PostgreSQL has numbers of its own."""
