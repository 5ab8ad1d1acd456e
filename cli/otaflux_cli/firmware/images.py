"""ESP32 application images: making samples, and reading what an image says of itself.

The format is Espressif's (ESP-IDF, "App Image Format"): a header of 24 bytes, segments, padding
whose last byte is the checksum, and the SHA-256 of all of it. The first segment begins with
`esp_app_desc_t`, which holds the version that a device reports after the boot. Little endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from hashlib import sha256
from operator import xor
from random import Random
from typing import NamedTuple

MAGIC = 0xE9
APP_DESCRIPTION_MAGIC = 0xABCD5432
CHECKSUM_SEED = 0xEF
SMALLEST = 384
LARGEST = 3 * 1024 * 1024
"""The greatest size of a sample: what the data mapping of every chip can hold, and a common
application partition of 4 MiB of flash."""
LARGEST_FILE = 64 * 1024 * 1024

_HEADER = struct.Struct("<BBBBI B3s H B H H 4s B")
_SEGMENT = struct.Struct("<II")
_APP_DESCRIPTION = struct.Struct("<II8s 32s32s16s16s32s 32s HHB3s 72s")
_CODE_SIZE = 32
_DIGEST_SIZE = 32
_MOST_SEGMENTS = 16


class InvalidImage(ValueError):
    """The bytes are not an ESP32 application image, or none can be made so; says why."""


class _Layout(NamedTuple):
    id: int
    data: int
    code: int


class Chip(StrEnum):
    """The chips that samples can be made for, named as `esptool` names them."""

    ESP32 = "esp32"
    ESP32S2 = "esp32s2"
    ESP32S3 = "esp32s3"
    ESP32C2 = "esp32c2"
    ESP32C3 = "esp32c3"
    ESP32C5 = "esp32c5"
    ESP32C6 = "esp32c6"
    ESP32H2 = "esp32h2"
    ESP32P4 = "esp32p4"


# Id in the image header, and where the chip maps flash data and internal code memory.
_LAYOUTS = {
    Chip.ESP32: _Layout(0, 0x3F400000, 0x40080000),
    Chip.ESP32S2: _Layout(2, 0x3F000000, 0x40020000),
    Chip.ESP32S3: _Layout(9, 0x3C000000, 0x40370000),
    Chip.ESP32C2: _Layout(12, 0x3C000000, 0x4037C000),
    Chip.ESP32C3: _Layout(5, 0x3C000000, 0x4037C000),
    Chip.ESP32C5: _Layout(23, 0x42000000, 0x40800000),
    Chip.ESP32C6: _Layout(13, 0x42000000, 0x40800000),
    Chip.ESP32H2: _Layout(16, 0x42000000, 0x40800000),
    Chip.ESP32P4: _Layout(18, 0x40000000, 0x4FF00000),
}


@dataclass(frozen=True, slots=True)
class Description:
    """What an image says of itself; `chip` is None for one that is not in `Chip`."""

    version: str
    project: str
    chip: Chip | None
    size: int


def make_image(
    version: str, *, project: str = "otaflux-sample", chip: Chip = Chip.ESP32, size: int = 64 * 1024
) -> bytes:
    """A valid image of `size` bytes (a multiple of 16, `SMALLEST` … `LARGEST`).

    The same arguments give the same bytes. Its code is noise: a bootloader accepts it, and then
    it would crash.

    Raises:
        InvalidImage: a size or a text that does not fit the format.
    """
    if not SMALLEST <= size <= LARGEST or size % 16:
        raise InvalidImage(
            f"an image of {size} bytes cannot be made: give a multiple of 16 "
            f"from {SMALLEST} to {LARGEST}"
        )
    layout = _LAYOUTS[chip]
    noise = Random(f"{version}\0{project}\0{chip}\0{size}")
    description = _APP_DESCRIPTION.pack(
        APP_DESCRIPTION_MAGIC,
        0,
        bytes(8),
        _text(version, "version"),
        _text(project, "project"),
        b"00:00:00",
        b"Jan  1 2026",
        b"v5.5",
        sha256(f"{project} {version}".encode()).digest(),
        0,
        0xFFFF,
        16,
        bytes(3),
        bytes(72),
    )
    # Header, two segment heads, the code and at least one byte of padding, rounded to 16.
    rest = _HEADER.size + 2 * _SEGMENT.size + _CODE_SIZE + 8 + _DIGEST_SIZE
    data = description + noise.randbytes(size - rest - len(description))
    code = noise.randbytes(_CODE_SIZE)
    image = bytearray(
        # Two segments, flash mode DIO, 4 MiB at 40 MHz; no pins given, any chip revision.
        _HEADER.pack(
            MAGIC, 2, 2, 0x20, layout.code, 0xEE, bytes(3), layout.id, 0, 0, 0xFFFF, bytes(4), 1
        )
    )
    # A flash page is mapped whole, so address and place in the file agree in their low bits.
    for address, content in (
        (layout.data + _HEADER.size + _SEGMENT.size, data),
        (layout.code, code),
    ):
        image += _SEGMENT.pack(address, len(content)) + content
    image += bytes(15 - len(image) % 16)
    image.append(reduce(xor, data + code, CHECKSUM_SEED))
    image += sha256(image).digest()
    return bytes(image)


def describe(image: bytes) -> Description:
    """What `image` says of itself.

    Raises:
        InvalidImage: it is not a complete application image: another magic, cut off, or with a
            wrong checksum or digest.
    """
    if len(image) < SMALLEST or image[0] != MAGIC:
        raise InvalidImage("this is no ESP32 application image: it does not begin with byte E9")
    fields = _HEADER.unpack_from(image)
    segments, chip_id, has_digest = fields[1], fields[7], fields[12]
    if segments > _MOST_SEGMENTS:
        raise InvalidImage(f"the image header counts {segments} segments: the file is damaged")
    checksum, end = CHECKSUM_SEED, _HEADER.size
    for start, stop in _segments(image, segments):
        checksum, end = reduce(xor, image[start:stop], checksum), stop
    end += 16 - end % 16
    if len(image) < end + (_DIGEST_SIZE if has_digest == 1 else 0):
        raise InvalidImage("the image is cut off: build or copy it again")
    if image[end - 1] != checksum:
        raise InvalidImage("the image's checksum is wrong: the file is damaged")
    if has_digest == 1 and sha256(image[:end]).digest() != image[end : end + _DIGEST_SIZE]:
        raise InvalidImage("the image's SHA-256 is wrong: the file is damaged")
    description = _APP_DESCRIPTION.unpack_from(image, _HEADER.size + _SEGMENT.size)
    if description[0] != APP_DESCRIPTION_MAGIC:
        raise InvalidImage("the image has no application description (is it a bootloader?)")
    chips = {layout.id: chip for chip, layout in _LAYOUTS.items()}
    return Description(
        version=_string(description[3]),
        project=_string(description[4]),
        chip=chips.get(chip_id),
        size=len(image),
    )


def _segments(image: bytes, count: int) -> Iterator[tuple[int, int]]:
    place = _HEADER.size
    for _ in range(count):
        if place + _SEGMENT.size > len(image):
            raise InvalidImage("the image is cut off: build or copy it again")
        length = _SEGMENT.unpack_from(image, place)[1]
        start = place + _SEGMENT.size
        place = start + length
        if place > len(image):
            raise InvalidImage("the image is cut off: build or copy it again")
        yield start, place


def _text(text: str, name: str) -> bytes:
    encoded = text.encode()
    if not encoded or len(encoded) > 31 or b"\0" in encoded:
        raise InvalidImage(f"the {name} in an image is 1 to 31 bytes long: give a shorter one")
    return encoded


def _string(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")
