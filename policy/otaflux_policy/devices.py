"""A device as a decision sees it."""

import re
from dataclasses import dataclass

DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
_DEVICE_ID = re.compile(DEVICE_ID_PATTERN[:-1] + r"\Z")


class InvalidDeviceId(ValueError):
    """The text is not a device id; the message says what one looks like, never the text."""


def device_id(text: str) -> str:
    """`text` as a device id.

    Raises:
        InvalidDeviceId: it does not match `DEVICE_ID_PATTERN`.
    """
    if not _DEVICE_ID.match(text):
        raise InvalidDeviceId(
            "a device id is 1 to 128 letters, digits or . _ : - and begins with a letter or digit"
        )
    return text


@dataclass(frozen=True, slots=True)
class Device:
    """A device, the namespace it belongs to, and what it is known to be and to run.

    `model` and `version` are what the device says of itself: they serve compatibility, never
    selection. `digest` is the manifest digest that it is known to run, from any run.
    """

    namespace: str
    id: str
    model: str | None = None
    version: str | None = None
    digest: str | None = None
