"""Semantic versions (semver.org 2.0.0), and ranges of them as npm has them."""

from __future__ import annotations

from semantic_version import NpmSpec, Version  # type: ignore[import-untyped]  # ships no types


def semantic_version(text: str) -> Version | None:
    """`text` as SemVer 2.0.0, after one leading `v`; None if it is not one."""
    try:
        return Version(text.removeprefix("v"))
    except ValueError:
        return None


def semantic_range(text: str) -> NpmSpec | None:
    """`text` as an npm-style range of semantic versions; None if it is not one."""
    try:
        return NpmSpec(text)
    except ValueError:
        return None
