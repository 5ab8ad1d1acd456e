"""`python -m fuzz [TARGET …]`: fuzzes each target for `--seconds`, and prints one table.

What breaks a target is kept in a temporary folder, which the end tells; nothing is written into
the tree. Exit status 1 where something broke.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fuzz import CORPUS
from otaflux_cli.outputs import console, table

_NAMES = sorted(folder.name for folder in CORPUS.iterdir())
_HANGS_AFTER = 10
"""Seconds that one input may take."""
_GRACE = 60
"""Seconds for the start, the seeds, and a last input."""
_STATISTIC = re.compile(r"stat::(\w+):\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target: how many inputs it was given, and which broke it."""

    target: str
    inputs: int
    broken: Sequence[Path]
    log: Path
    failed: bool


def main() -> int:
    """Prints the table to stdout."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {' '.join(_NAMES)}")
    parser.add_argument(
        "--seconds",
        type=int,
        default=int(os.environ.get("FUZZ_SECONDS") or 20),
        help="for each target (default: FUZZ_SECONDS, else 20)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="targets at one time (default 1)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - set(_NAMES))
    if unknown:
        parser.error(f"no target {' '.join(unknown)}: choose of {' '.join(_NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed, which exists for Linux alone: make venv")
    folder = Path(tempfile.mkdtemp(prefix="otaflux-fuzz-"))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(
            pool.map(
                lambda name: fuzzed(name, arguments.seconds, folder), arguments.targets or _NAMES
            )
        )
    rows = [
        (each.target, f"{each.inputs:,}", str(len(each.broken)), "failed" if each.failed else "")
        for each in results
    ]
    console().print(table(("Target", "Inputs", "Broke it", ""), rows))
    for each in results:
        if each.failed:
            console().print(_advice(each), soft_wrap=True)
    return int(any(each.failed for each in results))


def fuzzed(target: str, seconds: int, folder: Path) -> Result:
    """Fuzzes the target for so long; what it leaves lies below the folder."""
    found, broken = folder / target / "found", folder / target / "broken"
    found.mkdir(parents=True)
    broken.mkdir()
    log = folder / target / "log"
    command = [
        sys.executable,
        "-m",
        "fuzz.running",
        target,
        f"-max_total_time={seconds}",
        f"-timeout={_HANGS_AFTER}",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        "-print_final_stats=1",
        f"-artifact_prefix={broken}/",
        str(found),
        str(CORPUS / target),
    ]
    with log.open("wb") as output:
        try:
            status = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + _GRACE
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    text = log.read_text(errors="replace")
    statistics = dict(_STATISTIC.findall(text))
    inputs = int(statistics.get("number_of_executed_units", 0))
    return Result(target, inputs, sorted(broken.iterdir()), log, status != 0)


def _advice(result: Result) -> str:
    lines = [f"\n{result.target}: the trace is at the end of {result.log}."]
    if result.broken:
        lines.append("Keep what broke it as a regression test (`pytest tests/fuzz`), then mend it:")
    lines += [f"  cp {file} {CORPUS / result.target}/SAY-WHAT-IT-IS" for file in result.broken]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
