"""The database of standalone: versions, conflicts, and files that are not ours."""

import sqlite3
from pathlib import Path

import pytest

from otaflux_cli.standalone.databases import FILE_NAME, Database, DatabaseUnusable, OtherVersion
from otaflux_operator.ports import Key, Kind

KEY = Key(Kind.ROLLOUT, "default", "thermostat")
MANIFEST = {"kind": "FirmwareRollout", "metadata": {}, "spec": {"a": 1}}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def version(database: Database) -> str:
    resource = database.resource(KEY)
    assert resource is not None
    return str(resource["metadata"]["resourceVersion"])


def test_a_status_is_written_only_over_what_was_read(database: Database) -> None:
    database.replace({KEY: ("a.yaml", MANIFEST)})
    read = version(database)
    database.write_status(KEY, {"phase": "Progressing"}, read)
    with pytest.raises(OtherVersion):
        database.write_status(KEY, {"phase": "Completed"}, read)
    resource = database.resource(KEY)
    assert resource is not None
    assert resource["status"] == {"phase": "Progressing"}
    database.replace({})
    database.replace({KEY: ("a.yaml", MANIFEST)})
    with pytest.raises(OtherVersion):
        database.write_status(KEY, {}, read)
    database.close()


def test_a_publication_replaces_only_what_was_read(database: Database) -> None:
    database.publish(KEY, "one", "owner", None)
    with pytest.raises(OtherVersion):
        database.publish(KEY, "two", "owner", None)
    found = database.publication(KEY)
    assert found is not None
    database.publish(KEY, "two", "owner", str(found.version))
    assert database.publications()[KEY].content == "two"
    assert database.withdraw(KEY)
    assert not database.withdraw(KEY)
    database.close()


def test_a_reader_sees_what_a_running_one_writes(database: Database, tmp_path: Path) -> None:
    reader = Database(tmp_path, read_only=True)
    database.replace({KEY: ("a.yaml", MANIFEST)})
    assert [found["metadata"]["name"] for found in reader.resources(Kind.ROLLOUT)] == ["thermostat"]
    assert reader.resources(Kind.ROLLOUT, "elsewhere") == []
    reader.close()
    database.close()


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="has standalone run there"):
        Database(tmp_path, read_only=True)
    (tmp_path / FILE_NAME).write_bytes(b"something else, and long enough to be no header" * 50)
    with pytest.raises(DatabaseUnusable, match="cannot be used"):
        Database(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    newer = sqlite3.connect(tmp_path / FILE_NAME)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(DatabaseUnusable, match="another version of OtaFlux"):
        Database(tmp_path)
