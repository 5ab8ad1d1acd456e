"""Building parts with Go, from pinned and checksummed modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .caches import Cache
from .pins import GO_AT_LEAST, GO_MODULES, Part
from .processes import bound_to_parent

_TAIL_LINES = 30
_POLL = 0.5


class GoUnusable(Exception):
    """Go is missing or too old; the text says what to install."""


class BuildFailed(Exception):
    """Go could not build a part; carries the end of what it said."""


def find_go(environment: Mapping[str, str] | None = None) -> Path:
    """The ``go`` command of PATH, if it is new enough; raises GoUnusable."""
    environment = os.environ if environment is None else environment
    wanted = ".".join(map(str, GO_AT_LEAST))
    advice = f"install Go {wanted} or newer and put it on PATH (https://go.dev/doc/install)"
    found = shutil.which("go", path=environment.get("PATH"))
    if found is None:
        raise GoUnusable(f"there is no `go` on PATH: {advice}")
    answer = subprocess.run(
        [found, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "GOTOOLCHAIN": "local"},
        cwd="/",
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    if version is None:
        raise GoUnusable(f"{found} does not tell its version ({answer.stderr.strip()}): {advice}")
    if tuple(map(int, version.groups())) < GO_AT_LEAST:
        raise GoUnusable(f"{found} is {answer.stdout.strip()}: {advice}")
    return Path(found)


def build_part(
    part: Part, go: Path, cache: Cache, progress: Callable[[float], None] = lambda _: None
) -> Path:
    """Build a part into the cache and return the program.

    ``progress`` is called twice a second with the seconds so far. Raises
    BuildFailed. The build ends when this process does.
    """
    with cache.installing(part.folder) as staging:
        _run_go(_command(part, go, staging), _environment(go, cache, staging), part, progress)
        if not (staging / part.name).is_file():
            raise BuildFailed(f"go made no {part.name} of {part.package}")
    return cache.binaries / part.folder / part.name


def _command(part: Part, go: Path, staging: Path) -> list[str]:
    flags = ["-trimpath", "-ldflags", part.ldflags]
    if part.module is None:
        return [str(go), "install", *flags, f"{part.package}@{part.version}"]
    folder = str(GO_MODULES / part.module)
    output = str(staging / part.name)
    return [str(go), "-C", folder, "build", "-mod=readonly", *flags, "-o", output, part.package]


def _environment(go: Path, cache: Cache, staging: Path) -> dict[str, str]:
    """The machine's own environment: proxies and checksum database stay as they are."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH")
    }
    flags = subprocess.run(
        [str(go), "env", "GOFLAGS"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    for flag in ("-modcacherw", "-buildvcs=false"):
        if flag not in flags:
            flags.append(flag)
    environment.update(
        CGO_ENABLED="0",
        GOBIN=str(staging),
        GOCACHE=str(cache.go_builds),
        GOFLAGS=" ".join(flags),
        GOMODCACHE=str(cache.go_modules),
        GOTOOLCHAIN="local",
        GOWORK="off",
    )
    return environment


def _run_go(
    command: list[str],
    environment: dict[str, str],
    part: Part,
    progress: Callable[[float], None],
) -> None:
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            bound_to_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
        )
        try:
            while process.poll() is None:
                progress(time.monotonic() - started)
                try:
                    process.wait(_POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()
            tail = "\n".join(lines[-_TAIL_LINES:])
            raise BuildFailed(f"building {part.name} {part.version} failed:\n{tail}")
