"""Semantic versions (semver.org 2.0.0) of releases and devices; anything else is unordered."""

from functools import lru_cache

from semantic_version import Version  # type: ignore[import-untyped]  # ships no type information


@lru_cache(maxsize=4096)
def parse(text: str) -> Version | None:
    """The semantic version in `text`, or None where it is none: such a version is *unordered*.

    One leading `v` is accepted, as in the tags that many projects push (`v1.4.0`).
    """
    try:
        return Version(text.removeprefix("v"))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def compare(left: str | None, right: str | None) -> int | None:
    """-1, 0 or 1 as `left` is older than, the same as or newer than `right`.

    None where they cannot be ordered: one is unknown, or not a semantic version and not the
    same text. Build metadata does not order (semver.org 2.0.0 §10), so `1.0.0+a` and `1.0.0+b`
    compare as 0.
    """
    if left is None or right is None:
        return None
    if left == right:
        return 0
    a, b = parse(left), parse(right)
    if a is None or b is None:
        return None
    a, b = a.truncate("prerelease"), b.truncate("prerelease")
    newer: bool = a > b
    older: bool = a < b
    return newer - older


def same(left: str | None, right: str | None) -> bool:
    """Whether both are known and name one version: the same text, save for a leading `v`."""
    if left is None or right is None:
        return False
    return left == right or (
        parse(left) is not None and left.removeprefix("v") == right.removeprefix("v")
    )
