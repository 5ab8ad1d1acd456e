"""The cache folder that all clones of the project share.

Layout::

    bin/<part>-<version>-<platform>-go-<stamp>/<part>     built with Go
    bin/envtest-<version>-<platform>/{etcd,kube-apiserver,kubectl}
    go/mod, go/build                                      Go's own caches
    tmp/                                                  what is being made
    lock                                                  held while preparing

A folder of ``bin`` is made in ``tmp`` and renamed, so what is there is whole.
The whole cache may be deleted at any time: ``rm -r`` of it is safe.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """Paths inside one cache folder; creates nothing until something is installed."""

    root: Path

    @property
    def binaries(self) -> Path:
        return self.root / "bin"

    @property
    def go_modules(self) -> Path:
        return self.root / "go" / "mod"

    @property
    def go_builds(self) -> Path:
        return self.root / "go" / "build"

    @contextmanager
    def lock(self, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the cache for preparing; one process at a time, across all clones.

        ``waiting`` is called once with the holder's process id when somebody
        else holds it. The kernel frees the lock when its holder dies.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+", encoding="ascii") as file:
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if waiting is not None and not told:
                        file.seek(0)
                        waiting(file.read(20).strip() or "unknown")
                        told = True
                    time.sleep(0.1)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def sweep(self) -> None:
        """Remove what was being made by a process that was killed; only under the lock."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)

    @contextmanager
    def installing(self, folder: str) -> Iterator[Path]:
        """A fresh folder that becomes ``bin/<folder>`` at once when the block ends well."""
        staging_root = self.root / "tmp"
        staging_root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{folder}-", dir=staging_root))
        try:
            yield staging
            staging.chmod(0o755)
            target = self.binaries / folder
            self.binaries.mkdir(exist_ok=True)
            if target.exists():
                # A folder of this name without the part we just made: a torn or foreign one.
                target.rename(staging_root / f"{staging.name}-replaced")
                shutil.rmtree(staging_root / f"{staging.name}-replaced")
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def default_cache() -> Cache:
    """``$XDG_CACHE_HOME/otaflux``; a relative value is ignored, as the XDG specification asks."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".cache"
    return Cache(base / "otaflux")
