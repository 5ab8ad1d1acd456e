"""What commands print: data on stdout as a table or JSON, remarks on stderr."""

import json
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 250
"""Columns where nobody looks: what is piped on is one line each."""


class Output(StrEnum):
    """The value of `-o`."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("-o", "--output", help="A table for people, JSON for programs.")
]


def console(*, stderr: bool = False) -> "Console":
    """Where rich output goes; without colours and live displays where it is no terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


def remark(text: str) -> None:
    """A line for the person, never part of the data."""
    typer.echo(text, err=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> "Table":
    """A table in the look that all commands share."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made


def print_json(data: Any) -> None:
    """`data` as JSON, for programs."""
    typer.echo(json.dumps(data, indent=2))


def print_rows(
    output: Output, columns: Sequence[str], rows: Sequence[Sequence[object]], data: Any
) -> None:
    """`rows` as a table, or `data` as JSON."""
    if output is Output.JSON:
        print_json(data)
    else:
        console().print(table(columns, rows))
