"""Where a part of the control plane is, if it is anywhere.

Order: ``KUBEBUILDER_ASSETS``, what Go built into the cache, the official
archive unpacked into the cache. ``OTAFLUX_CONTROL_PLANE=go`` takes only what
Go built. Nothing here downloads or builds: see ``preparing``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .caches import Cache, default_cache
from .pins import ARCHIVED_PARTS, PARTS, archive_for, platform_name

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
MODE_VARIABLE = "OTAFLUX_CONTROL_PLANE"

_KUBEBUILDER_PARTS = (*ARCHIVED_PARTS, "kube-controller-manager")


class PartMissing(Exception):
    """A part of the control plane is not on this machine; the text says how to get it."""

    def __init__(self, names: Iterable[str], advice: str | None = None) -> None:
        self.names = tuple(names)
        what = " ".join(self.names)
        super().__init__(
            f"not found: {what}; "
            + (advice or f"run `python -m otaflux_cli.control_plane prepare --parts {what}`")
        )


@dataclass(frozen=True)
class Found:
    """One program; ``source`` is ``KUBEBUILDER_ASSETS``, ``go``, ``archive`` or ``system``."""

    name: str
    path: Path
    source: str
    version: str | None = None


def only_go(environment: Mapping[str, str] | None = None) -> bool:
    """Whether ``OTAFLUX_CONTROL_PLANE=go`` is set; any other value is refused with ValueError."""
    mode = (os.environ if environment is None else environment).get(MODE_VARIABLE, "")
    if mode not in ("", "auto", "go"):
        raise ValueError(f"{MODE_VARIABLE}={mode!r}: write `go`, or leave it unset")
    return mode == "go"


def find(
    name: str,
    *,
    cache: Cache | None = None,
    environment: Mapping[str, str] | None = None,
) -> Found | None:
    """The part called ``name`` (a key of ``PARTS``), or None."""
    environment = os.environ if environment is None else environment
    cache = default_cache() if cache is None else cache
    part = PARTS[name]
    go_alone = only_go(environment)
    assets = environment.get(ASSETS_VARIABLE)
    if assets and not go_alone and name in _KUBEBUILDER_PARTS:
        candidate = Path(assets) / name
        if _is_program(candidate):
            return Found(name, candidate.resolve(), ASSETS_VARIABLE)
    candidate = cache.binaries / part.folder / name
    if _is_program(candidate):
        return Found(name, candidate, "go", part.version)
    archive = archive_for(platform_name())
    if archive is not None and not go_alone and name in ARCHIVED_PARTS:
        candidate = cache.binaries / archive.folder / name
        if _is_program(candidate):
            return Found(name, candidate, "archive", archive.version)
    return None


def find_all(
    names: Iterable[str],
    *,
    cache: Cache | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Paths of all ``names``; raises PartMissing that names every one that is not there."""
    found = {name: find(name, cache=cache, environment=environment) for name in names}
    missing = [name for name, part in found.items() if part is None]
    if missing:
        raise PartMissing(missing)
    return {name: part.path for name, part in found.items() if part is not None}


def find_docker_registry() -> Found | None:
    """Debian's ``docker-registry`` (distribution 2.8), which only the system can give."""
    path = shutil.which("docker-registry")
    return None if path is None else Found("docker-registry", Path(path), "system")


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
