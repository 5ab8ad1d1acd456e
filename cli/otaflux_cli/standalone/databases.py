"""What standalone keeps: the manifests in use, their status, and what is published (SQLite).

A manifest is kept as it was last valid, so that a file that somebody breaks takes nothing away,
not even over a restart. Secrets are never stored.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from otaflux_operator.ports import Key, Kind

FILE_NAME = "standalone.sqlite3"
_FORMAT = 1
_BUSY_SECONDS = 30
_TABLES = """
CREATE TABLE objects (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    file TEXT NOT NULL,
    manifest TEXT NOT NULL,
    uid TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE publications (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    content TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE counter (version INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (0);
"""


class DatabaseUnusable(Exception):
    """The file cannot be opened, or is none of ours; the message says what to do."""


class OtherVersion(Exception):
    """The row is not in the version that the caller read."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published for an object, in its canonical form."""

    content: str
    owner: str
    version: int


class Database:
    """The file `standalone.sqlite3` of a data folder. Blocking; safe to use from any thread."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Opens the file, and makes it where there is none.

        Raises:
            DatabaseUnusable: it cannot be.
        """
        path = folder / FILE_NAME
        self._lock = Lock()
        if read_only and not path.exists():
            raise DatabaseUnusable(f"{folder} holds no {FILE_NAME}: has standalone run there?")
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise DatabaseUnusable(f"{path} cannot be opened: {error}") from None
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare(path, read_only)
        except sqlite3.Error as error:
            self._connection.close()
            raise DatabaseUnusable(f"{path} cannot be used: {error}") from None
        except DatabaseUnusable:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: Path, read_only: bool) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and not read_only:
            self._connection.execute("PRAGMA journal_mode = WAL")
            with self._transaction() as connection:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
        elif found != _FORMAT:
            raise DatabaseUnusable(
                f"{path} was written by another version of OtaFlux (format {found}, not "
                f"{_FORMAT}): use that version, or another --data folder"
            )
        self._connection.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # Objects

    def replace(self, manifests: Mapping[Key, tuple[str, dict[str, Any]]]) -> set[Key]:
        """Makes these (file and manifest by key) all the objects there are; the changed keys."""
        changed = set()
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT kind, namespace, name, file, manifest FROM objects"
            ).fetchall()
            known = {_key(row): row for row in rows}
            for key, (file, manifest) in manifests.items():
                text = json.dumps(manifest, sort_keys=True)
                old = known.pop(key, None)
                if old is None:
                    _insert(connection, key, file, text)
                    changed.add(key)
                elif (old["file"], old["manifest"]) != (file, text):
                    _update(connection, key, file, text, json.loads(old["manifest"]) != manifest)
                    changed.add(key)
            for key in known:
                connection.execute(
                    "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?",
                    _values(key),
                )
                changed.add(key)
        return changed

    def manifests(self) -> dict[Key, tuple[str, dict[str, Any]]]:
        """The file and manifest of every object."""
        rows = self._rows("SELECT kind, namespace, name, file, manifest FROM objects")
        return {_key(row): (row["file"], json.loads(row["manifest"])) for row in rows}

    def keys(self) -> set[Key]:
        """Every object."""
        return {_key(row) for row in self._rows("SELECT kind, namespace, name FROM objects")}

    def resource(self, key: Key) -> dict[str, Any] | None:
        """The object as an API server would return it."""
        rows = self._rows(
            "SELECT * FROM objects WHERE kind = ? AND namespace = ? AND name = ?", *_values(key)
        )
        return _resource(rows[0]) if rows else None

    def resources(self, kind: Kind, namespace: str | None = None) -> list[dict[str, Any]]:
        """All objects of a kind, of one namespace or of all, in order of their names."""
        rows = self._rows(
            "SELECT * FROM objects WHERE kind = ?1 AND (?2 IS NULL OR namespace = ?2) "
            "ORDER BY namespace, name",
            str(kind),
            namespace,
        )
        return [_resource(row) for row in rows]

    def write_status(self, key: Key, status: Mapping[str, Any], version: str) -> None:
        """Replaces the status of the object that was read in `version`. Raises OtherVersion."""
        with self._transaction() as connection:
            written = connection.execute(
                "UPDATE objects SET status = ?, version = ? "
                "WHERE kind = ? AND namespace = ? AND name = ? AND version = ?",
                (json.dumps(status), _next_version(connection), *_values(key), version),
            )
            if written.rowcount != 1:
                raise OtherVersion(str(key))

    # Publications

    def publication(self, key: Key) -> Publication | None:
        """What is published for the object."""
        return self.publications().get(key)

    def publications(self) -> dict[Key, Publication]:
        """All that is published."""
        return {
            _key(row): Publication(row["content"], row["owner"], row["version"])
            for row in self._rows("SELECT * FROM publications")
        }

    def publish(self, key: Key, content: str, owner: str, version: str | None) -> None:
        """Replaces what was published in `version` (None: nothing was). Raises OtherVersion."""
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT version FROM publications WHERE kind = ? AND namespace = ? AND name = ?",
                _values(key),
            ).fetchone()
            if (None if found is None else str(found["version"])) != version:
                raise OtherVersion(str(key))
            connection.execute(
                "INSERT OR REPLACE INTO publications VALUES (?, ?, ?, ?, ?, ?)",
                (*_values(key), content, owner, _next_version(connection)),
            )

    def withdraw(self, key: Key) -> bool:
        """Removes what is published for the object; False where nothing was."""
        with self._transaction() as connection:
            removed = connection.execute(
                "DELETE FROM publications WHERE kind = ? AND namespace = ? AND name = ?",
                _values(key),
            )
            return removed.rowcount > 0


def _insert(connection: sqlite3.Connection, key: Key, file: str, text: str) -> None:
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    connection.execute(
        "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, '{}')",
        (*_values(key), file, text, str(uuid4()), created, _next_version(connection)),
    )


def _update(connection: sqlite3.Connection, key: Key, file: str, text: str, changed: bool) -> None:
    connection.execute(
        "UPDATE objects SET file = ?, manifest = ?, version = ?, generation = generation + ? "
        "WHERE kind = ? AND namespace = ? AND name = ?",
        (file, text, _next_version(connection), int(changed), *_values(key)),
    )


def _next_version(connection: sqlite3.Connection) -> int:
    row = connection.execute("UPDATE counter SET version = version + 1 RETURNING version")
    version: int = row.fetchone()[0]
    return version


def _key(row: sqlite3.Row) -> Key:
    return Key(Kind(row["kind"]), row["namespace"], row["name"])


def _values(key: Key) -> tuple[str, str, str]:
    return str(key.kind), key.namespace, key.name


def _resource(row: sqlite3.Row) -> dict[str, Any]:
    manifest = json.loads(row["manifest"])
    return {
        **manifest,
        "metadata": {
            **manifest["metadata"],
            "namespace": row["namespace"],
            "name": row["name"],
            "uid": row["uid"],
            "generation": row["generation"],
            "resourceVersion": str(row["version"]),
            "creationTimestamp": row["created_at"],
        },
        "status": json.loads(row["status"]),
    }
