"""The tables. Times are integer microseconds since 1970 UTC; NULL where nothing is known."""

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


attempts = Table(
    "attempts",
    metadata,
    _key("namespace"),
    _key("rollout"),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    _key("digest"),
    _key("device"),
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
    # No facts, but what claims look up: the ring whose slot the attempt takes (`rows.slot_of`),
    # and whether it was found to take none any more. A new fact that could change that sets
    # `concluded` back; `changes` counts merges: a verdict on older facts is not written.
    Column("slot", TEXT),
    Column("concluded", Boolean, nullable=False, server_default=text("false")),
    Column("changes", BigInteger, nullable=False, server_default=text("0")),
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

downloads = Table(
    "downloads",
    metadata,
    _key("namespace"),
    _key("rollout"),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    _key("digest"),
    _key("device"),
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
    sqlite_with_rowid=False,
)
Index("devices_seen", devices.c.last_seen)
