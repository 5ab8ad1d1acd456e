"""By what a file is seen to have changed, without reading it."""

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """What changes whenever a file does, also one put in its place; times in ns since 1970."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def stamp_of(status: os.stat_result) -> Stamp:
    """That of the file with this status."""
    return Stamp(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
