"""Semantic versions (semver.org 2.0.0)."""

from __future__ import annotations

from semantic_version import Version  # type: ignore[import-untyped]  # ships no types


def semantic_version(text: str) -> Version | None:
    """`text` as SemVer 2.0.0, after one leading `v`; None if it is not one."""
    try:
        return Version(text.removeprefix("v"))
    except ValueError:
        return None
