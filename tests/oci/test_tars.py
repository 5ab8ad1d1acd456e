"""The reader of tar archives: what it takes of real ones, and what it refuses of others."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otaflux_oci import AmbiguousLayers, InvalidArchive, NoFirmwareLayer, OciError, TooLarge
from otaflux_oci.tars import TarLimits, TarReader
from tests.fixtures.image_registries import tar_of

LIMITS = TarLimits(file_bytes=100_000, members=50, header_bytes=4096)
FIRMWARE = bytes(range(256)) * 40
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "/".join(["a" * 50] * 4) + "/firmware.bin"


def read(archive: bytes, path: str = "", *, step: int = 700) -> tuple[str, bytes]:
    reader = TarReader(path, LIMITS, where="The layer")
    content = b"".join(
        reader.feed(archive[start : start + step]) for start in range(0, len(archive), step)
    )
    return reader.finish(), content


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("step", [1, 511, 512, 513, 100_000])
@pytest.mark.parametrize("name", ["firmware.bin", "./fw//app.bin", LONG])
def test_the_only_file(name: str, format: int, step: int) -> None:
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    archive = tar_of({"fw/": b"", name: FIRMWARE}, format)
    assert read(archive, step=step) == (plain, FIRMWARE)
    assert read(archive, f"/{name}", step=step) == (plain, FIRMWARE)


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_that_is_named(format: int) -> None:
    archive = tar_of({"README": b"read me", "a/b.bin": FIRMWARE, "b.bin": b"other"}, format)
    assert read(archive, "a/b.bin") == ("a/b.bin", FIRMWARE)
    assert read(archive, "b.bin") == ("b.bin", b"other")


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_the_real_tar(format: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "firmware.bin").write_bytes(FIRMWARE)
    command = ["tar", f"--format={format}", "-C", str(tmp_path), "-cf", "-", "./folder"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    if format == "v7":
        with pytest.raises(InvalidArchive, match="not in the format"):
            read(archive)
    else:
        assert read(archive) == ("folder/firmware.bin", FIRMWARE)


def test_an_empty_file_is_one() -> None:
    assert read(tar_of({"empty": b""})) == ("empty", b"")


@pytest.mark.parametrize(
    ("files", "path", "error", "message"),
    [
        ({"a": b"1", "b": b"2"}, "", AmbiguousLayers, r"several files: 'a', 'b'. Choose one"),
        ({str(n): b"" for n in range(20)}, "", AmbiguousLayers, r"'7', …. Choose"),
        ({"a": b"1"}, "b", NoFirmwareLayer, r"no file 'b', only 'a'"),
        ({"a/": b""}, "", NoFirmwareLayer, "no file at all"),
        ({"a/b": b""}, "a", NoFirmwareLayer, "no file 'a'"),
    ],
)
def test_which_file_is_not_guessed(
    files: dict[str, bytes], path: str, error: type[OciError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tar_of(files), path)


def raw(*members: tuple[str, bytes, bytes], **fields: object) -> bytes:
    """Members as (name, kind, content), whatever they are; `fields` of each TarInfo."""
    parts = []
    for name, kind, content in members:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, len(content)
        for field, value in fields.items():
            setattr(member, field, value)
        parts.append(member.tobuf(tarfile.USTAR_FORMAT))
        parts.append(content + bytes(-len(content) % 512))
    return b"".join(parts) + bytes(1024)


def pax(*records: tuple[str, str]) -> bytes:
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while length != len(str(length)) + len(rest):
            length += 1
        body += str(length).encode() + rest
    return body


GOOD = ("firmware.bin", b"0", b"firmware")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (raw(GOOD, GOOD), "there twice"),
        (raw(GOOD, ("./firmware.bin", b"0", b"other")), "there twice"),
        (raw(GOOD)[:-512], "cut off"),
        (raw(GOOD)[:700], "cut off"),
        (b"", "cut off"),
        (raw(GOOD) + b"\1", "follows its end"),
        (raw(GOOD) + raw(GOOD), "follows its end"),
        (raw(GOOD)[:-512] + raw(GOOD), "follows its end"),
        (raw(("/etc/passwd", b"0", b"")), "leads out"),
        (raw(("../firmware.bin", b"0", b"")), "leads out"),
        (raw(("a/../../b", b"0", b"")), "leads out"),
        (raw(("x", b"x", pax(("path", "../b"))), GOOD), "leads out"),
        (raw(("x", b"L", b"../b\0"), GOOD), "leads out"),
        (raw(("a", b"1", b"")), "hard link"),
        (raw(("a", b"2", b"")), "symbolic link"),
        (raw(("a", b"3", b"")), "device"),
        (raw(("a", b"4", b"")), "device"),
        (raw(("a", b"6", b"")), "named pipe"),
        (raw(("a", b"7", b"")), "neither a file nor a folder"),
        (raw(("a", b"S", b"")), "sparse"),
        (raw(("a", b"K", b"b")), "a link"),
        (raw(("a", b"V", b"")), "neither a file nor a folder"),
        (raw(("x", b"g", pax(("size", "1")))), "global pax header"),
        (raw(("x", b"x", pax(("size", "1"))), GOOD), "pax record 'size'"),
        (raw(("x", b"x", pax(("GNU.sparse.major", "1"))), GOOD), "pax record 'GNU.sparse"),
        (raw(("x", b"x", pax(("path", "a"), ("path", "b"))), GOOD), "says something twice"),
        (raw(("x", b"x", b"8 path=a\n"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b"-1 path=a\n"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b"0 path=a\n"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b"99999999999999999 a=b\n"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b"10 path:a\n"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b"10 path=ab"), GOOD), "pax header is damaged"),
        (raw(("x", b"x", b""), GOOD), "is empty"),
        (raw(("x", b"x", pax(("a", "b"))), ("x", b"x", pax(("a", "b"))), GOOD), "stands twice"),
        (raw(("x", b"L", b"a\0"), ("x", b"L", b"b\0"), GOOD), "stands twice"),
        (raw(("x", b"L", b"a\0"), ("x", b"x", pax(("path", "b"))), GOOD), "two names"),
        (raw(GOOD, ("x", b"x", pax(("a", "b")))), "lacks its file"),
        (raw(("x", b"L", b"a\0b\0"), GOOD), "control characters"),
        (raw(("a\nb", b"0", b"")), "control characters"),
        (raw(("x", b"L", b"a" * 300), GOOD), "longer than 255"),
        (raw(("x", b"L", b"\xff"), GOOD), "not UTF-8"),
        (raw(("folder/", b"0", b"")), "name of a folder"),
        (raw(("", b"0", b"")), "name of a folder"),
        (raw(("folder", b"5", b"x")), "folder has a size"),
        (raw(GOOD).replace(b"ustar\x0000", b"ustar\x0001"), "damaged"),
        (b"\x1f\x8b" + bytes(1022), "damaged"),
    ],
)
def test_what_is_refused(archive: bytes, message: str) -> None:
    with pytest.raises(InvalidArchive, match=message):
        read(archive, "firmware.bin" if b"firmware.bin" in archive else "")


def test_a_size_may_be_in_base_256() -> None:
    block = bytearray(raw(GOOD)[:512])
    block[124:136] = b"\x80" + len(GOOD[2]).to_bytes(11, "big")
    assert read(signed(block) + raw(GOOD)[512:]) == ("firmware.bin", b"firmware")
    block[124:136] = b"\xff" * 12
    with pytest.raises(InvalidArchive, match="not octal"):
        read(signed(block))


def signed(block: bytearray) -> bytes:
    """A header with the checksum that is right for it."""
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (raw(("a", b"0", bytes(100_001))), "holds a file of 100001 bytes; the limit is 100000"),
        (raw(*[("a", b"5", b"")] * 51), "more than 50 members"),
        (raw(("x", b"x", bytes(4097)), GOOD), "header of 4097 bytes; the limit is 4096"),
        (raw(("x", b"L", bytes(4097)), GOOD), "header of 4097 bytes"),
    ],
)
def test_what_is_too_large(archive: bytes, message: str) -> None:
    with pytest.raises(TooLarge, match=message):
        read(archive)


names = st.from_regex(r"[a-z]{1,60}(/[a-zäß]{1,60}){0,2}", fullmatch=True)


@given(
    files=st.dictionaries(names, st.binary(max_size=1500), min_size=1, max_size=3),
    format=st.sampled_from(FORMATS),
    step=st.integers(100, 2000),
)
@example(files={"a" * 100: b"1"}, format=tarfile.GNU_FORMAT, step=512)
def test_it_reads_what_tarfile_reads(files: dict[str, bytes], format: int, step: int) -> None:
    archive = tar_of(files, format)
    with tarfile.open(fileobj=io.BytesIO(archive)) as known:
        for member in known:
            if len(member.name.encode()) <= 255:
                stream = known.extractfile(member)
                assert stream is not None
                assert read(archive, member.name, step=step) == (member.name, stream.read())


@given(
    archive=st.one_of(
        st.binary(max_size=2000),
        st.tuples(
            st.sampled_from([tar_of({LONG: FIRMWARE}, format) for format in FORMATS]),
            st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
        ).map(lambda drawn: _changed(*drawn)),
    ),
    step=st.integers(100, 2000),
)
def test_whatever_comes_ends_in_a_file_or_in_an_error_of_ours(archive: bytes, step: int) -> None:
    try:
        path, content = read(archive, step=step)
    except OciError:
        return
    assert path
    assert len(content) <= len(archive)


def _changed(archive: bytes, changes: list[tuple[int, int]]) -> bytes:
    body = bytearray(archive)
    for place, value in changes:
        body[place] = value
    return bytes(body)
