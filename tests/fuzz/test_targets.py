"""Every fuzz target over its seeds and what once broke it; `make fuzz` looks for more."""

from pathlib import Path

import pytest

from fuzz import CORPUS
from fuzz.targets import TARGETS

FILES = [(folder.name, file) for folder in sorted(CORPUS.iterdir()) for file in folder.iterdir()]


def test_every_target_has_seeds_and_every_folder_a_target() -> None:
    assert {name for name, _ in FILES} == set(TARGETS)


@pytest.mark.parametrize(
    ("name", "file"), FILES, ids=[f"{name}-{file.name}" for name, file in FILES]
)
def test_seed(name: str, file: Path) -> None:
    TARGETS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_cut_and_changed_seeds(name: str) -> None:
    """What a fuzzer would try first, without one."""
    for file in (CORPUS / name).iterdir():
        data = file.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 20)):
            TARGETS[name](data[:place])
            TARGETS[name](data[:place] + b"\xff\0" + data[place:])
            TARGETS[name](data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
