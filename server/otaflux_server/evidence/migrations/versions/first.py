"""Devices, attempts and downloads; trips, replicas and where the copy came from."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text_column(name: str, *, key: bool = False, required: bool = False) -> sa.Column[str]:
    return sa.Column(name, _text(), nullable=not (key or required), primary_key=key)


def _number(name: str, *, key: bool = False, required: bool = False) -> sa.Column[int]:
    return sa.Column(
        name,
        sa.BigInteger(),
        nullable=not (key or required),
        primary_key=key,
        autoincrement=False,
    )


def _attempt_key() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        _text_column("namespace", key=True),
        _text_column("rollout", key=True),
        _number("run", key=True),
        _text_column("digest", key=True),
        _text_column("device", key=True),
    ]


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "attempts",
        *_attempt_key(),
        _number("first_offer"),
        _text_column("first_offer_ring"),
        _number("last_offer"),
        _number("offer_ended"),
        _number("first_byte"),
        _number("last_request"),
        _number("install_reported"),
        _number("restart_seen"),
        _number("target_first"),
        _number("target_last"),
        _number("other_first"),
        _number("other_last"),
        _number("failure"),
        _text_column("failure_code"),
        _number("last_poll"),
        _number("downloaded"),
        _text_column("slot"),
        sa.Column("concluded", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _number("changed", required=True),
        sqlite_with_rowid=False,
    )
    open_slots = sa.text("NOT concluded AND slot IS NOT NULL")
    op.create_index(
        "attempts_slots",
        "attempts",
        ["slot", "digest", "device"],
        postgresql_where=open_slots,
        sqlite_where=open_slots,
    )
    op.create_index("attempts_devices", "attempts", ["namespace", "device"])
    op.create_index("attempts_changed", "attempts", ["changed"])
    op.create_table(
        "downloads",
        *_attempt_key(),
        _number("started", key=True),
        _number("completed", required=True),
        _number("first_poll"),
        _number("last_poll"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "devices",
        _text_column("namespace", key=True),
        _text_column("device", key=True),
        _number("first_seen", required=True),
        _number("last_seen", required=True),
        _number("first_poll"),
        _number("last_poll"),
        _number("said"),
        _text_column("model"),
        _text_column("version"),
        _number("reported_first"),
        _number("running_since"),
        _text_column("running"),
        _number("pinned"),
        _text_column("pin_digest"),
        _number("pin_until"),
        _number("changed", required=True),
        sqlite_with_rowid=False,
    )
    op.create_index("devices_seen", "devices", ["last_seen"])
    op.create_index("devices_changed", "devices", ["changed"])
    op.create_table(
        "trips",
        _text_column("namespace", key=True),
        _text_column("rollout", key=True),
        _number("run", key=True),
        _text_column("ring", required=True),
        _number("failed", required=True),
        _number("updated", required=True),
        _number("at", required=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "replicas",
        _text_column("name", key=True),
        _number("seen_at", required=True),
        _text_column("replica", required=True),
        sqlite_with_rowid=False,
    )
    origin = op.create_table("origin", _number("tick", required=True), _number("restored_at"))
    op.bulk_insert(origin, [{"tick": 0, "restored_at": None}])


def downgrade() -> None:
    """Removes the tables."""
    for table in ("origin", "replicas", "trips", "devices", "downloads", "attempts"):
        op.drop_table(table)
