"""`python -m benchmarks [ROW ...]`: measures rows, all unless some are named, and prints them."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.figures import Figure
from benchmarks.machines import description
from benchmarks.rows import ROWS, measure
from otaflux_cli.outputs import console, print_json, table


def main() -> int:
    """Prints the table or JSON to stdout, progress to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures OtaFlux on this machine; five minutes for all rows.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {' '.join(ROWS)}")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {' '.join(unknown)}: choose of {' '.join(ROWS)}")
    names = list(dict.fromkeys(arguments.rows)) or list(ROWS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the servers, too
    try:
        figures = asyncio.run(measure(names))
    except KeyboardInterrupt:
        return 130
    if arguments.output == "json":
        print_json(
            {
                "machine": description(),
                "figures": [asdict(figure) for figure in figures],
                "methods": {name: ROWS[name].method for name in names},
            }
        )
    else:
        _print_table(figures, names)
    return 0


def _print_table(figures: Sequence[Figure], names: Sequence[str]) -> None:
    rows = [
        (figure.row, figure.measured, figure.text, figure.beside, figure.aim) for figure in figures
    ]
    out = console()
    if not out.is_terminal:
        out.width = 200
    out.print(table(("Row", "Measured", "Figure", "Beside", "Aim"), rows))
    out.print(f"Machine: {description()}")
    for name in names:
        out.print(f"{name}: {ROWS[name].method}", soft_wrap=not out.is_terminal)


if __name__ == "__main__":
    sys.exit(main())
