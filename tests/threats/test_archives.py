"""Archives that want to be more than a file: bombs, links, paths that lead out, changed bytes.

Each is pulled from a registry twice. Without the one function that refuses it, it gets through:
the operator would name the file in its status and policy, and the bytes would be read on.
"""

import gzip
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO

import pytest

from otaflux_oci import (
    Descriptor,
    InvalidArchive,
    Limits,
    OciError,
    RegistryClient,
    Repository,
    TooLarge,
    archives,
    find_file,
    tars,
)
from tests.fixtures.image_registries import OCI_GZIP_LAYER
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, sha256
from tests.fixtures.oci_sources import LOOPBACK, QUICK

GOOD = b"firmware"
MIB = 1024 * 1024
BOTH = pytest.mark.parametrize("mitigated", [True, False])
Bypass = Callable[[object, str], None]


@pytest.fixture
def bypass(mitigated: bool, monkeypatch: pytest.MonkeyPatch) -> Bypass:
    """`bypass(module, name)` takes the check away, unless the run is with the mitigation."""

    def taken_away(module: object, name: str) -> None:
        if not mitigated:
            monkeypatch.setattr(module, name, lambda *_: None)

    return taken_away


class Victim:
    """Reads a layer as the operator does, and counts what it unpacked on the way."""

    def __init__(self, registry: MisbehavingRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry = registry
        self.unpacked = 0
        self.largest_kept = 0
        feed = tars.TarReader.feed

        def counted(reader: tars.TarReader, part: bytes) -> bytes:
            self.unpacked += len(part)
            found = feed(reader, part)
            kept = reader._extension or b""
            self.largest_kept = max(self.largest_kept, len(kept))
            return found

        monkeypatch.setattr(tars.TarReader, "feed", counted)

    async def reads(self, tar: bytes, path: str = "", limits: Limits = QUICK) -> str:
        """The path of the file that was found."""
        packed = gzip.compress(tar, mtime=0)
        self.registry.blobs[sha256(packed)] = packed
        layer = Descriptor(OCI_GZIP_LAYER, sha256(packed), len(packed))
        repository = Repository(self.registry.host, "firmware")
        async with RegistryClient(settings=LOOPBACK, insecure=True, limits=limits) as client:
            found = await find_file(client, repository, layer, path=path, limits=limits)
        return found.path


@pytest.fixture
async def victim(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Victim]:
    async with MisbehavingRegistry() as registry:
        yield Victim(registry, monkeypatch)


def member(name: str, kind: bytes = b"0", content: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)


FIRMWARE = member("firmware.bin", content=GOOD)


@BOTH
async def test_a_tar_that_claims_ten_gigabytes(
    victim: Victim, mitigated: bool, bypass: Bypass
) -> None:
    """Nothing of what it claims is there; who believes it reads on to the end of what is."""
    bypass(tars, "require_size")
    info = tarfile.TarInfo("firmware.bin")
    info.size = 10 * 1024**3
    claim = info.tobuf(tarfile.GNU_FORMAT) + bytes(4 * MIB)
    with pytest.raises(OciError) as caught:
        await victim.reads(claim)
    if mitigated:
        assert isinstance(caught.value, TooLarge)
        assert "holds a file of 10737418240 bytes" in str(caught.value)
        assert victim.unpacked < MIB, "refused at the header"
    else:
        assert isinstance(caught.value, InvalidArchive)
        assert victim.unpacked > 4 * MIB


@BOTH
async def test_a_bomb_of_gzip(victim: Victim, mitigated: bool, bypass: Bypass) -> None:
    """A thousandfold; the file that is asked for is small and comes last."""
    bypass(archives, "require_room")
    zeros = [member(f"zeros-{n}", content=bytes(8 * MIB)) for n in range(8)]
    bomb = tar(*zeros, FIRMWARE)
    if mitigated:
        with pytest.raises(TooLarge, match="unpacks to more than"):
            await victim.reads(bomb, "firmware.bin")
        assert victim.unpacked < 17 * MIB
    else:
        assert await victim.reads(bomb, "firmware.bin") == "firmware.bin"
        assert victim.unpacked > 64 * MIB


@BOTH
async def test_a_hundred_thousand_members(victim: Victim, mitigated: bool, bypass: Bypass) -> None:
    bypass(tars, "require_members")
    roomy = replace(QUICK, archive_ratio=10_000)
    many = b"".join(member(f"folder-{n % 100}", b"5") for n in range(100)) * 1000
    if mitigated:
        with pytest.raises(TooLarge, match="more than 1000 members"):
            await victim.reads(many + tar(FIRMWARE), limits=roomy)
        assert victim.unpacked < MIB
    else:
        assert await victim.reads(many + tar(FIRMWARE), limits=roomy) == "firmware.bin"


@BOTH
@pytest.mark.parametrize("kind", [b"x", b"L"])
async def test_a_huge_header(victim: Victim, mitigated: bool, bypass: Bypass, kind: bytes) -> None:
    """Kept in memory until it is whole."""
    bypass(tars, "require_header")
    body = b"a" * (8 * MIB)
    if kind == b"x":
        body = b"8388608 comment=" + body[:-17] + b"\n"
    huge = tar(member("header", kind, body), FIRMWARE)
    if mitigated:
        with pytest.raises(TooLarge, match="header of 8388608 bytes"):
            await victim.reads(huge)
        assert victim.largest_kept == 0
    else:
        with suppress(InvalidArchive):  # once it has all of it
            await victim.reads(huge)
        assert victim.largest_kept > 7 * MIB


@BOTH
@pytest.mark.parametrize(
    ("kind", "what"), [(b"2", "symbolic link"), (b"1", "hard link"), (b"3", "device")]
)
async def test_a_link_for_a_file(
    victim: Victim, mitigated: bool, bypass: Bypass, kind: bytes, what: str
) -> None:
    bypass(tars, "require_plain")
    link = tar(member("firmware.bin", kind, linkname="/etc/passwd"))
    if mitigated:
        with pytest.raises(InvalidArchive, match=what):
            await victim.reads(link)
    else:
        assert await victim.reads(link) == "firmware.bin", "the link passes for the firmware"


@BOTH
@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
@pytest.mark.parametrize("how", ["plain", "pax", "gnu"])
async def test_a_path_that_leads_out(
    victim: Victim, mitigated: bool, bypass: Bypass, path: str, how: str
) -> None:
    bypass(tars, "require_inside")
    record = f" path={path}\n"
    bodies = {"pax": (b"x", f"{len(record) + 2}{record}"), "gnu": (b"L", f"{path}\0")}
    kind, body = bodies.get(how, (b"", ""))
    header = [member("header", kind, body.encode())] if kind else []
    name = "harmless" if kind else path
    archive = tar(*header, member(name, content=GOOD))
    if mitigated:
        with pytest.raises(InvalidArchive, match="leads out"):
            await victim.reads(archive)
    else:
        assert await victim.reads(archive) == path.lstrip("/")


@BOTH
async def test_a_size_that_another_header_changes(
    victim: Victim, mitigated: bool, bypass: Bypass
) -> None:
    """One reader sees one file, another one two: `size` in pax hides the second header.

    Here it is refused; without that, the record is passed over, and the archive read as if it
    were not there, which is not as tar reads it.
    """
    bypass(tars, "require_no_override")
    hidden = member("evil.bin", content=b"evil")
    archive = tar(member("x", b"x", b"13 size=1024\n"), member("firmware.bin"), hidden)
    with tarfile.open(fileobj=BytesIO(archive)) as known:
        assert known.getnames() == ["firmware.bin"]
    if mitigated:
        with pytest.raises(InvalidArchive, match="pax record 'size'"):
            await victim.reads(archive, "evil.bin")
    else:
        assert await victim.reads(archive, "evil.bin") == "evil.bin"
