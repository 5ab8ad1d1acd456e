"""`otaflux device token` on files."""

import csv
import io
import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otaflux_cli.enrolment import stores
from otaflux_policy.tokens import DeviceToken, hash_of, is_token
from otaflux_server.identities.token_files import TokenFiles
from tests.cli.commands import otaflux, otaflux_here


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens" / "homes"


def entries(file: Path) -> list[DeviceToken]:
    return [DeviceToken.loads(line) for line in file.read_text().splitlines()]


def create(file: Path, *arguments: str | Path) -> str:
    """What it prints."""
    ended = otaflux_here("device", "token", "create", *arguments, "--file", file)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refused(*arguments: str | Path) -> str:
    ended = otaflux_here("device", "token", *arguments)
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""
    return ended.stderr


def test_the_token_alone_is_printed_and_its_hash_alone_is_kept(file: Path) -> None:
    ended = otaflux(
        "device", "token", "create", "k", "-n", "homes", "--device", "k-1", "--file", file
    )
    token = ended.stdout.removesuffix("\n")
    assert is_token(token)
    assert token not in ended.stderr + file.read_text()
    assert entries(file) == [
        DeviceToken(name="k", sha256=hash_of(token), namespace="homes", devices=("k-1",))
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_server_reads_what_is_written(file: Path) -> None:
    create(file, "gateway", "-n", "homes", "--gateway")
    create(file, "lab", "-n", "lab", "--group", "benches", "--expires", "365d")
    read = TokenFiles(file.parent)
    read.read()
    assert list(read.tokens()) == entries(file)
    gateway, lab = entries(file)
    assert (gateway.devices, gateway.expires_at) == (("*",), None)
    assert (lab.group, lab.devices) == ("benches", ())
    assert lab.expires_at is not None
    assert timedelta(days=364) < lab.expires_at - datetime.now(UTC) < timedelta(days=366)


def test_what_others_wrote_stays_as_it_is(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("by hand, without an end of line")
    file.chmod(0o640)
    create(file, "k", "-n", "homes", "--device", "k-1", "--device", "hall-*")
    create(file, "other", "-n", "homes", "--device", "o-1")
    assert otaflux_here("device", "token", "revoke", "k", "--file", file).returncode == 0
    first, second = file.read_text().splitlines()
    assert first == "by hand, without an end of line"
    assert DeviceToken.loads(second).name == "other"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    listed = otaflux_here("device", "token", "list", "--file", file)
    assert "Line 1 of" in listed.stderr
    assert "by hand" not in listed.stderr


def test_list_shows_whom_a_token_stands_for_and_never_a_hash(file: Path) -> None:
    create(file, "k", "-n", "homes", "--device", "k-1")
    create(file, "lab", "-n", "lab", "--group", "benches", "--expires", "12h")
    told = otaflux_here("device", "token", "list", "--file", file).stdout
    assert [line.split()[:3] for line in told.splitlines() if "k-1" in line] == [
        ["k", "homes", "k-1"]
    ]
    assert "group benches" in told
    some = otaflux_here("device", "token", "list", "-n", "lab", "--file", file, "-o", "json")
    assert [token["name"] for token in json.loads(some.stdout)] == ["lab"]
    for entry in entries(file):
        assert entry.sha256 not in told + some.stdout


def test_an_expired_token_is_shown_as_such(file: Path) -> None:
    file.parent.mkdir()
    past = datetime(2020, 1, 1, tzinfo=UTC)
    entry = DeviceToken(
        name="old", sha256="0" * 64, namespace="homes", devices=("a",), expires_at=past
    )
    file.write_text(entry.dumps())
    assert "(expired)" in otaflux_here("device", "token", "list", "--file", file).stdout


def test_a_batch_makes_a_token_for_each_device(file: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("hall-1\n\nhall-2\naa:bb:cc:dd:ee:ff\n")
    told = create(file, "b7", "-n", "homes", "--devices-file", ids)
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [row["id"] for row in rows] == ["hall-1", "hall-2", "aa:bb:cc:dd:ee:ff"]
    assert [(e.name, e.devices, e.sha256) for e in entries(file)] == [
        (f"b7/{row['id']}", (row["id"],), hash_of(row["token"])) for row in rows
    ]
    revoking = ("device", "token", "revoke", "b7/hall-1", "b7/hall-2", "--file", file)
    assert otaflux_here(*revoking).returncode == 0
    assert [entry.name for entry in entries(file)] == ["b7/aa:bb:cc:dd:ee:ff"]


def test_json_carries_the_token_and_no_hash(file: Path) -> None:
    told = json.loads(create(file, "k", "-n", "homes", "--device", "k-1", "-o", "json"))
    assert is_token(told["token"])
    assert "sha256" not in told


def test_commands_at_the_same_time_lose_nothing(file: Path) -> None:
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "otaflux_cli.main", "device", "token", "create"),
                *(f"n{number}", "-n", "homes", "--device", f"d-{number}", "--file", str(file)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(6)
    ]
    tokens = {process.communicate(timeout=60)[0].decode().strip() for process in running}
    assert {entry.sha256 for entry in entries(file)} == {hash_of(token) for token in tokens}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("k", "-n", "homes"), "give one of --device"),
        (("k", "-n", "homes", "--device", "a", "--gateway"), "give one of --device"),
        (("k", "-n", "No_Namespace", "--gateway"), "no name of a namespace"),
        (("k", "-n", "homes", "--device", "a b"), "a device id is"),
        (("k", "-n", "homes", "--device", "*-/x"), "a device id is"),
        (("k", "-n", "homes", "--gateway", "--expires", "soon"), "write 365d"),
        (("", "-n", "homes", "--gateway"), "name: "),
        (("k", "-n", "homes", "--devices-file", "absent"), "there is no file absent"),
        (("k", "-n", "homes", "--gateway", "--secret", "s"), "not both"),
    ],
)
def test_what_cannot_be_is_refused_and_says_why(
    file: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused("create", *arguments, "--file", file)
    assert not file.parent.exists()


def test_a_name_that_seems_to_end_its_line_is_one_name(file: Path) -> None:
    name = "a\u2028b\x85c"
    create(file, name, "-n", "homes", "--device", "a")
    listed = otaflux_here("device", "token", "list", "-o", "json", "--file", file)
    assert [token["name"] for token in json.loads(listed.stdout)] == [name]
    assert otaflux_here("device", "token", "revoke", name, "--file", file).returncode == 0
    assert file.read_bytes() == b""


def test_a_name_is_given_once(file: Path) -> None:
    create(file, "k", "-n", "homes", "--device", "k-1")
    before = file.read_bytes()
    assert "there is a token 'k'" in refused(
        "create", "k", "-n", "lab", "--gateway", "--file", file
    )
    assert "nothing was revoked" in refused("revoke", "k", "absent", "--file", file)
    assert file.read_bytes() == before


def test_a_batch_names_each_device_once(file: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\nb\na\n")
    said = refused("create", "b", "-n", "h", "--devices-file", tmp_path / "ids", "--file", file)
    assert "names 'a' twice" in said


def test_a_file_that_the_server_would_not_read_is_not_written(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(file, "k", "-n", "homes", "--device", "k-1")
    monkeypatch.setattr(stores, "MOST_BYTES", file.stat().st_size + 10)
    before = file.read_bytes()
    assert "Begin another file" in refused(
        "create", "l", "-n", "homes", "--device", "l-1", "--file", file
    )
    assert file.read_bytes() == before


def test_what_is_refused_makes_no_folder(file: Path) -> None:
    assert "nothing was revoked" in refused("revoke", "k", "--file", file)
    assert not file.parent.exists()
