"""What no file of the tree may hold, and what a suppression or a long module must say."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 440
"""Lines: about 400, so that one more case does not split a module."""
GENERATED = ("go.sum", "go.mod")

FORBIDDEN = {
    # A path of one machine, rather than one of an image or of every Unix.
    "a path of a machine": re.compile(r"(?<![\w.…-])/(?:(?:work|root)/\w|(?:home|Users)/\w+/)"),
    "a package index": re.compile(
        r"(?:^|\s)--(?:extra-)?index[-]url\b|\b(?:PIP_INDEX_URL|GOPROXY)=https?:"
        r"(?!//[\w.]*example\.)|\"resolved\": *\"http",
        re.MULTILINE,
    ),
    "an unfinished place": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
    "a secret key": re.compile("-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
SUPPRESSION = re.compile(
    r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\]|mypy: ignore-errors|pragma: no cover)(.*)"
)
FIXED_WAIT = re.compile(r"\btime\.sleep\(")
BARE = re.compile(r"#\s*(?:noqa(?!:)|type:\s*ignore(?!\[))\b")


def tracked() -> Iterator[Path]:
    """Files that git tracks or would track, but for this one, which names what it looks for."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and ROOT / name != Path(__file__):
            yield ROOT / name


def places(files: Iterator[Path], pattern: re.Pattern[str]) -> list[str]:
    found = []
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{file.relative_to(ROOT)}:{line}: {match[0].strip()}")
    return found


def python() -> Iterator[Path]:
    return (file for file in tracked() if file.suffix == ".py")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    files = (file for file in tracked() if file.name not in GENERATED)
    assert places(files, FORBIDDEN[what]) == []


def test_what_is_looked_for_would_be_found() -> None:
    for what, line in {
        "a path of a machine": 'cache = "/home/jane/cache/x"',
        "a package index": "--index-url https://mirror.example.com",
        "an unfinished place": "# TODO: later",
        "a secret key": "-----BEGIN RSA PRIVATE KEY-----",
    }.items():
        assert FORBIDDEN[what].search(line), what


def test_a_suppression_says_why() -> None:
    unexplained = []
    for file in python():
        lines = ["", *map(str.strip, file.read_text().splitlines()), ""]
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            found = SUPPRESSION.search(line)
            beside = before.startswith("#") or after.startswith("#")
            if BARE.search(line) or (found and not beside and not found[1].strip(" #-—")):
                unexplained.append(f"{file.relative_to(ROOT)}: {line}")
    assert unexplained == []


def test_no_test_waits_a_fixed_time() -> None:
    assert places((file for file in python() if ROOT / "tests" in file.parents), FIXED_WAIT) == []


def test_a_long_module_says_why_in_its_first_line() -> None:
    long = []
    for file in python():
        lines = file.read_text().splitlines()
        if len(lines) > LONGEST and "lines:" not in lines[0]:
            long.append(f"{file.relative_to(ROOT)}: {len(lines)} lines")
    assert long == [], "split it, or end its first line with `over 400 lines: <why>`"
