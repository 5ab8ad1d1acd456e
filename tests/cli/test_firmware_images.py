"""Sample images are what `esptool` takes for valid ESP32 applications."""

import io
from contextlib import redirect_stdout
from hashlib import sha256

import pytest

from otaflux_cli.firmware.images import (
    LARGEST,
    SMALLEST,
    Chip,
    InvalidImage,
    describe,
    make_image,
)

esptool = pytest.importorskip("esptool", reason="esptool is not installed (pip install .[dev])")


def image_info(image: bytes) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        esptool.image_info(image)
    return output.getvalue()


@pytest.mark.parametrize("chip", Chip)
def test_esptool_accepts_a_sample_for_every_chip(chip: Chip) -> None:
    image = make_image("1.4.0", project="thermostat", chip=chip, size=4096)
    info = image_info(image)
    assert f"Detected image type: {chip.upper().replace('ESP32', 'ESP32-', 1).rstrip('-')}" in info
    assert "Project name: thermostat" in info
    assert "App version: 1.4.0" in info
    assert "(valid)" in info
    assert info.count("(valid)") == 2, "checksum and appended hash"
    assert len(image) == 4096


@pytest.mark.parametrize("size", [SMALLEST, SMALLEST + 16, 65536, 1024 * 1024])
def test_a_sample_has_exactly_the_size_asked_for(size: int) -> None:
    image = make_image("2.0.0-rc.1", size=size)
    assert len(image) == size
    assert image_info(image).count("(valid)") == 2


@pytest.mark.parametrize("size", [0, SMALLEST - 16, SMALLEST + 1, LARGEST + 16])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidImage, match="multiple of 16"):
        make_image("1.0.0", size=size)


def test_the_same_arguments_give_the_same_bytes_and_versions_differ() -> None:
    assert make_image("1.3.2") == make_image("1.3.2")
    assert sha256(make_image("1.3.2")).digest() != sha256(make_image("1.4.0")).digest()


@pytest.mark.parametrize("version", ["", "1" * 32, "1\0"])
def test_a_version_that_does_not_fit_is_refused(version: str) -> None:
    with pytest.raises(InvalidImage, match="version"):
        make_image(version)


def test_an_image_describes_itself() -> None:
    description = describe(make_image("1.4.0", project="thermostat", chip=Chip.ESP32C3, size=8192))
    assert (description.version, description.project) == ("1.4.0", "thermostat")
    assert (description.chip, description.size) == (Chip.ESP32C3, 8192)


def damage(image: bytes, place: int) -> bytes:
    changed = bytearray(image)
    changed[place] ^= 0x55
    return bytes(changed)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "byte E9"),
        (b"\x7fELF" + bytes(1000), "byte E9"),
        (make_image("1.0.0")[:-33], "cut off"),
        (make_image("1.0.0")[:1000], "cut off"),
        (damage(make_image("1.0.0"), 500), "checksum"),
        (damage(make_image("1.0.0"), -1), "SHA-256"),
        (damage(make_image("1.0.0"), 1), "segments"),
    ],
)
def test_a_damaged_image_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        describe(image)
