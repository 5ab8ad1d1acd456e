"""Options that enrolment commands share, and what their texts mean."""

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError

NamespaceOption = Annotated[
    str, typer.Option("-n", "--namespace", help="The namespace that the devices belong to.")
]
KubeconfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The cluster of the Secret; unset: as kubectl finds it."),
]

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([dhm])")


def check_namespace(text: str) -> None:
    """Raises UserError where it is no namespace's name."""
    from otaflux_server.settings import NAMESPACE_PATTERN

    if re.fullmatch(NAMESPACE_PATTERN, text) is None:
        raise UserError(f"{text!r} is no name of a namespace", exit_code=WRONG_USAGE)


def device_name(text: str) -> str:
    """The device id; raises UserError where it is none."""
    from otaflux_policy.devices import InvalidDeviceId, device_id

    try:
        return device_id(text)
    except InvalidDeviceId as error:
        raise UserError(f"{text!r}: {error}", exit_code=WRONG_USAGE) from None


def lifetime(option: str, text: str) -> timedelta:
    """A span such as `365d`, `12h`, `30m`; raises UserError."""
    found = _LIFETIME.fullmatch(text)
    if found is None:
        raise UserError(
            f"{option} {text!r} is no span of time: write 365d, 12h or 30m", exit_code=WRONG_USAGE
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def read_text(file: Path) -> str:
    """What is in the file, or for `-` comes from stdin; raises UserError."""
    from otaflux_cli.enrolment.stores import read_file

    if str(file) == "-":
        return sys.stdin.read()
    try:
        return read_file(file).decode()
    except FileNotFoundError:
        raise UserError(f"there is no file {file}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not text (UTF-8)") from None
