"""A server of the test's own, on uvloop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fleets import Served, serving, settings


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path)) as server:
        yield server
