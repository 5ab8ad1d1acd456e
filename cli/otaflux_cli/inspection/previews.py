"""A preview for people: what each ring would take, and who is left out and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from otaflux_cli.outputs import console, table

if TYPE_CHECKING:
    from otaflux_server.previewing import Preview, PreviewedDevices

_COLUMNS = ("Ring", "Open", "Devices", "Active", "First of them")


def heading(told: "Preview") -> str:
    """Of what release this is the preview."""
    name = f"{told.namespace}/{told.name}"
    if told.digest is None:
        return f"{name}: nothing is released yet, so that rings with a percentage take nobody"
    return f"{name}: what each ring takes of {told.version or told.digest}"


def rows(told: "Preview") -> list[tuple[str, str, int, int, str]]:
    """The rings, then who is in none of them."""
    found = [_row(ring.name, "yes" if ring.open else "no", ring) for ring in told.rings]
    return found + [_row(what, "", group) for what, group in _others(told) if group.devices]


def notes(told: "Preview") -> list[str]:
    """What the numbers leave out."""
    found = []
    if told.unknown_models:
        found.append(
            f"Of {told.unknown_models} devices no model is known: a DeviceGroup may say it."
        )
    if told.uncounted:
        found.append(
            f"{told.uncounted} ids that may be a scanner's are left out: no DeviceGroup names them "
            "exactly, and they have not polled for long."
        )
    return found


def show(told: "Preview") -> None:
    """Prints it."""
    from rich.text import Text

    screen = console()
    screen.print(Text(heading(told), style="bold"), soft_wrap=True)
    screen.print(table(_COLUMNS, [[Text(str(cell)) for cell in row] for row in rows(told)]))
    for note in notes(told):
        screen.print(Text(note), soft_wrap=True)


def _others(told: "Preview") -> "Iterator[tuple[str, PreviewedDevices]]":
    yield "in no ring", told.unplaced
    for shadow in told.shadowed:
        yield f"rollout {shadow.rollout} has them", shadow
    for incompatible in told.incompatible:
        yield f"not admitted: {incompatible.why}", incompatible


def _row(what: str, is_open: str, group: "PreviewedDevices") -> tuple[str, str, int, int, str]:
    rest = group.devices - len(group.first)
    named = ", ".join(group.first) + (f" and {rest} more" if rest > 0 and group.first else "")
    return what, is_open, group.devices, group.active, named
