"""Device groups that give one device different values of one label."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, combinations, islice

from otaflux_policy.groups import Group
from otaflux_policy.selectors import glob_matches, is_glob

COMPARISONS = 100_000
"""Pairs of globs of two groups that are compared; what lies beyond is not looked for."""


def label_conflicts(groups: Iterable[Group]) -> dict[str, str]:
    """The groups of one namespace that contradict another, each with a sentence that says where.

    Two groups contradict each other where both may hold one device: an id that both name, an id
    that one names and a glob of the other matches, or two globs that one id could match.
    """
    found: dict[str, str] = {}
    ordered = sorted(groups, key=lambda group: group.name)
    exact = {
        group.name: dict.fromkeys(sorted(name for name in group.names if not is_glob(name)))
        for group in ordered
    }
    globs = {
        group.name: sorted({name for name in group.names if is_glob(name)}) for group in ordered
    }
    for first, second in combinations(ordered, 2):
        if first.name in found and second.name in found:
            continue
        label = next(
            (
                key
                for key in sorted(first.labels.keys() & second.labels.keys())
                if first.labels[key] != second.labels[key]
            ),
            None,
        )
        if label is None:
            continue
        shared = _shared(exact, globs, first.name, second.name)
        if shared is None:
            continue
        text = (
            f"{shared}: {first.name} says {label}={first.labels[label]}, "
            f"{second.name} says {label}={second.labels[label]}; {first.name} wins."
        )
        found.setdefault(first.name, text)
        found.setdefault(second.name, text)
    return found


def _shared(
    exact: dict[str, dict[str, None]], globs: dict[str, list[str]], first: str, second: str
) -> str | None:
    """An id or glob for which both groups stand."""
    if both := exact[first].keys() & exact[second].keys():
        return f"Device {min(both)}"
    for one, other in ((first, second), (second, first)):
        names = list(exact[other])
        for glob in globs[one]:
            for name in _beginning(names, _literal_prefix(glob)):
                if glob_matches(glob, name):
                    return f"Device {name}"
    for left, right in islice(_related(globs[first], globs[second]), COMPARISONS):
        if overlap(left, right):
            return f"Devices that match {left} and {right}"
    return None


def _related(first: list[str], second: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs that one id could match by what stands before their first wildcards."""
    by_prefix: dict[str, list[str]] = {}
    for glob in second:
        by_prefix.setdefault(_literal_prefix(glob), []).append(glob)
    prefixes = sorted(by_prefix)
    for glob in first:
        prefix = _literal_prefix(glob)
        shorter = (prefix[:size] for size in range(len(prefix)))
        for known in chain(shorter, _beginning(prefixes, prefix)):
            for other in by_prefix.get(known, ()):
                yield glob, other


def _beginning(ordered: list[str], prefix: str) -> Iterator[str]:
    """Those of the sorted texts that begin with `prefix`."""
    for place in range(bisect_left(ordered, prefix), len(ordered)):
        if not ordered[place].startswith(prefix):
            return
        yield ordered[place]


def _literal_prefix(glob: str) -> str:
    return re.split(r"[*?]", glob, maxsplit=1)[0]


def overlap(left: str, right: str) -> bool:
    """Whether some text matches both globs."""
    # reachable[j]: one and the same text can match what stands before this place in `left` and
    # what stands before place j in `right`.
    reachable = [True]
    for char in right:
        reachable.append(reachable[-1] and char == "*")
    for char in left:
        row = [reachable[0] and char == "*"]
        for place, other in enumerate(right):
            if "*" in (char, other):
                # A star takes in nothing, or whatever stands on the other side.
                row.append(reachable[place + 1] or row[-1])
            else:
                row.append(reachable[place] and (char == other or "?" in (char, other)))
        reachable = row
    return reachable[-1]
