"""`otaflux firmware`: what it writes is read back by the registry client."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from otaflux_cli.firmware.images import make_image
from otaflux_oci import ImageLayout, Repository, resolve
from tests.cli.commands import otaflux, otaflux_async


async def test_a_binary_that_is_added_can_be_resolved_and_read(tmp_path: Path) -> None:
    image = make_image("1.4.0", size=4096)
    (tmp_path / "app.bin").write_bytes(image)
    ended = await otaflux_async("firmware", "add", "app.bin", "--version", "1.4.0", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith("\nNext"), "no notes"

    layout = ImageLayout(tmp_path / "firmware")
    repository = Repository.parse("localhost/firmware")
    found = await resolve(layout, repository, tag="1.4.0")
    assert found.version == "1.4.0"
    assert found.digest in ended.stdout
    assert "repository: localhost/firmware" in ended.stderr
    assert 'tag: "1.4.0"' in ended.stderr
    async with layout.blob(repository, found.layer) as parts:
        assert b"".join([part async for part in parts]) == image


async def test_a_tag_moves_and_json_names_the_digests(tmp_path: Path) -> None:
    digests = []
    for version in ("1.3.2", "1.4.0"):
        image = make_image(version, size=4096)
        (tmp_path / "app.bin").write_bytes(image)
        ended = await otaflux_async(
            *("firmware", "add", tmp_path / "app.bin", "--tag", "stable", "-o", "json"),
            *("--repository", "registry.example.com/thermostat", "--layout", tmp_path / "layout"),
        )
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert told["version"] == version, "taken from the image"
        assert told["firmware"] == {
            "digest": f"sha256:{sha256(image).hexdigest()}",
            "size": len(image),
        }
        digests.append(told["digest"])
    repository = Repository.parse("registry.example.com/thermostat")
    layout = ImageLayout(tmp_path / "layout")
    assert await layout.digest(repository, "stable") == digests[1]
    assert (await resolve(layout, repository, digest=digests[0])).version == "1.3.2"


def test_any_binary_will_do_but_a_contradiction_is_pointed_out(tmp_path: Path) -> None:
    file = tmp_path / "app.bin"
    file.write_bytes(b"not from Espressif")
    ended = otaflux("firmware", "add", file, "--version", "7", "--layout", tmp_path / "layout")
    assert (ended.returncode, "Note" in ended.stderr) == (0, False)
    file.write_bytes(make_image("1.3.2", size=4096))
    ended = otaflux("firmware", "add", file, "--version", "7", "--layout", tmp_path / "layout")
    assert ended.returncode == 0
    assert "the image says that it is version 1.3.2, not 7" in ended.stderr
    file.write_bytes(make_image("1.3.2", size=4096)[:-40])
    ended = otaflux("firmware", "add", file, "--version", "7", "--layout", tmp_path / "layout")
    assert "cut off" in ended.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, ["--version", "1.0.0"], 1, "cannot be read"),
        (b"", ["--version", "1.0.0"], 1, "is empty"),
        (b"binary", [], 2, "Give it: --version 1.4.0"),
        (b"binary", ["--version", "1.0.0", "--repository", "Upper/Case"], 1, "lower case"),
        (b"binary", ["--version", "1.0.0", "--tag", "no tag"], 1, "is not a tag"),
    ],
)
def test_a_mistake_is_explained(
    tmp_path: Path, content: bytes | None, arguments: list[str], code: int, message: str
) -> None:
    file = tmp_path / "app.bin"
    if content is not None:
        file.write_bytes(content)
    ended = otaflux("firmware", "add", file, *arguments, "--layout", tmp_path / "layout")
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_sample_is_written(tmp_path: Path) -> None:
    ended = otaflux(
        "firmware", "sample", "--version", "1.4.0", "--size", "8KiB", "-o", tmp_path / "x"
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "x").read_bytes() == make_image("1.4.0", size=8192)


@pytest.mark.parametrize("size", ["x", "1GiB", "-1", "64 MiB"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    ended = otaflux("firmware", "sample", "--version", "1", "--size", size, "-o", tmp_path / "x")
    assert ended.returncode == 2
    assert "MiB" in ended.stderr or "multiple of 16" in ended.stderr
    assert not (tmp_path / "x").exists()
