"""Files of tokens: what is read of them, what is refused, and that they are read again."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from otaflux_policy.tokens import new_token
from otaflux_server.identities import token_files
from otaflux_server.identities.token_files import TokenFiles
from otaflux_server.identities.tokens import Tokens
from otaflux_server.stamps import Stamp
from tests.server.fleets import Served, serving, settings
from tests.server.identities.ways import bearer, device_token, write


def line(device: str, token: str | None = None) -> str:
    return device_token(token or new_token(), name=f"of {device}", devices=[device]).dumps()


def devices(files: TokenFiles) -> list[str]:
    return [device for token in files.tokens() for device in token.devices]


def test_one_file(tmp_path: Path) -> None:
    file = tmp_path / ".hidden-but-named"
    file.write_text(f"{line('a')}\n\n{line('b')}\r\n   \n{line('c')}")
    files = TokenFiles(file)
    assert files.read()
    assert devices(files) == ["a", "b", "c"]
    assert files.refused == 0
    assert not files.read()


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_text(line("b"))
    (tmp_path / "a.jsonl").write_text(line("a"))
    (tmp_path / ".a.swp").write_text(line("hidden"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "c").write_text(line("below"))
    os.mkfifo(tmp_path / "pipe")
    files = TokenFiles(tmp_path)
    with capture_logs() as logs:
        files.read()
    assert devices(files) == ["a", "b"]
    assert {(entry["event"], entry["file"]) for entry in logs} == {
        ("device tokens read", "a.jsonl"),
        ("device tokens read", "b"),
    }


def mount(folder: Path, version: str, **keys: str) -> None:
    """As the kubelet puts a Secret's version in place (atomic_writer.go)."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    for key, text in keys.items():
        (data / key).write_text(text)
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(f"..data/{key}")
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in keys:
            link.unlink()


def test_a_secret_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    mount(tmp_path, "2026_1", one=line("a"), two=line("b"))
    files = TokenFiles(tmp_path)
    files.read()
    assert devices(files) == ["a", "b"]
    mount(tmp_path, "2026_2", two=line("c"))
    assert files.read()
    assert devices(files) == ["c"]


def test_a_secret_that_is_swapped_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(tmp_path, "2026_1", one=line("a"), two=line("b"))
    read = token_files._read
    swaps: list[Callable[[], None]] = [
        lambda: mount(tmp_path, "2026_2", one=line("c"), three=line("d"))
    ]

    def reading(file: Path, before: token_files._Content | None) -> token_files._Content | None:
        found = read(file, before)
        while swaps:
            swaps.pop()()
        return found

    monkeypatch.setattr(token_files, "_read", reading)
    files = TokenFiles(tmp_path)
    files.read()
    assert devices(files) == ["c", "d"]


BAD = (
    "nonsense",
    "{}",
    "[]",
    "null",
    "{" * 5000,
    new_token(),
    line("a").replace('"namespace"', '"nameSpace"'),
    line("a").replace('"devices":["a"]', '"devices":[]'),
    line("a").replace('"sha256":"', '"sha256":"0'),
    line("a") + line("b"),
    line("a") + " " * 300_000,
    "\x00",
)


def test_a_malformed_line_is_refused_alone_and_never_shown(tmp_path: Path) -> None:
    secret = b"otd_secret"
    lines = [line("a"), *BAD, line("b")]
    text = "\n".join(lines).encode() + b"\n\xff" + secret + b"\n" + line("c").encode()
    (tmp_path / "tokens").write_bytes(text)
    files = TokenFiles(tmp_path / "tokens")
    with capture_logs() as logs:
        files.read()
    assert devices(files) == ["a", "b", "c"]
    assert files.refused == len(BAD) + 1
    (entry,) = (entry for entry in logs if "refused" in entry["event"])
    assert entry["count"] == len(BAD) + 1
    assert entry["lines"] == list(range(2, 12))
    for bad in (*BAD[:6], secret.decode()):
        assert bad not in str(logs)
    with capture_logs() as logs:
        files.read()
    assert not logs


def test_a_change_that_leaves_no_trace_is_seen_while_the_file_is_young(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of files are coarse: two changes may have the same."""
    file = tmp_path / "tokens"
    file.write_text(line("a"))
    now = time.time_ns()
    monkeypatch.setattr(token_files, "stamp_of", lambda _: Stamp(1, 1, 1, now, now))
    monkeypatch.setattr(token_files, "_SETTLED_NS", 10**12)
    files = TokenFiles(file)
    files.read()
    file.write_text(line("b"))
    assert files.read()
    assert devices(files) == ["b"]


def test_a_change_is_seen_and_what_is_gone_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(line("a"))
    files = TokenFiles(tmp_path)
    files.read()
    before = file.stat()
    file.write_text(line("b"))  # in place, of the same size, at the same time
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.read()
    assert devices(files) == ["b"]
    with file.open("a") as more:
        more.write("\n" + line("c"))
    assert files.read()
    assert devices(files) == ["b", "c"]
    file.unlink()
    with capture_logs() as logs:
        assert files.read()
    assert devices(files) == []
    assert any("missing" in entry["event"] for entry in logs)
    with capture_logs() as logs:
        assert not files.read()
    assert not logs


def test_a_file_that_is_settled_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text(line("a"))
    monkeypatch.setattr(token_files, "_SETTLED_NS", -1)
    files = TokenFiles(tmp_path)
    files.read()
    (content,) = files._contents.values()
    files.read()
    assert list(files._contents.values()) == [content]
    assert next(iter(files._contents.values())) is content


@pytest.mark.parametrize("missing", ["nowhere", "tokens/below-a-file"])
def test_files_that_are_not_there_are_no_tokens(tmp_path: Path, missing: str) -> None:
    (tmp_path / "tokens").write_text(line("a"))
    files = TokenFiles(tmp_path / missing)
    with capture_logs() as logs:
        files.read()
        files.read()
    assert devices(files) == []
    assert len(logs) == 1
    assert missing in logs[0]["file"]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "MAX_FILES", 3)
    monkeypatch.setattr(token_files, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(token_files, "MAX_TOKENS", 3)
    for name in "abcd":
        (tmp_path / name).write_text(line(name))
    (tmp_path / "a").write_text("\n".join(line("a") for _ in range(20)))
    files = TokenFiles(tmp_path)
    with capture_logs() as logs:
        files.read()
        assert devices(files) == ["b", "c"]
    assert {"file of device tokens is too large", "device tokens are missing"} <= {
        entry["event"] for entry in logs
    }
    monkeypatch.setattr(token_files, "MAX_TOKENS", 1)
    assert devices(files) == ["b"]


# The server


def status(served: Served, token: str) -> int:
    (header,) = bearer(token).headers
    return served.get("/version", ": ".join(header)).status


def test_the_server_follows_the_files(tmp_path: Path) -> None:
    first, second = new_token(), new_token()
    file = tmp_path / "tokens"
    write(file, device_token(first, devices=["a"]))
    identity = {"kind": "Token", "tokens": str(file)}
    with serving(settings(tmp_path / "data", identity=identity)) as served:
        assert (status(served, first), status(served, second)) == (404, 401)
        write(file, device_token(first, devices=["a"]), device_token(second, devices=["b"]))
        tokens = served.server.identifier
        assert isinstance(tokens, Tokens)
        served.wait(lambda: len(tokens._holders) == 2)
        assert (status(served, first), status(served, second)) == (404, 404)
        write(file, device_token(second, devices=["b"]))
        served.wait(lambda: len(tokens._holders) == 1)
        assert (status(served, first), status(served, second)) == (401, 404)
        file.unlink()
        served.wait(lambda: not tokens._holders)
        assert (status(served, first), status(served, second)) == (401, 401)
