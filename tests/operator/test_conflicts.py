"""Groups that give one device different values of one label."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_operator.conflicts import label_conflicts, overlap
from otaflux_policy.groups import Group
from otaflux_policy.selectors import glob_matches


def group(name: str, names: list[str], **labels: str) -> Group:
    return Group(namespace="home", name=name, names=tuple(names), labels=labels)


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        (["kitchen-1"], ["kitchen-1"], "Device kitchen-1"),
        (["lab-*"], ["lab-1"], "Device lab-1"),
        (["lab-1"], ["lab-?"], "Device lab-1"),
        (["lab-*"], ["*-1"], "Devices that match lab-* and *-1"),
    ],
)
def test_groups_that_share_a_device(first: list[str], second: list[str], where: str) -> None:
    found = label_conflicts([group("b", second, ring="early"), group("a", first, ring="canary")])
    assert set(found) == {"a", "b"}
    assert found["a"] == f"{where}: a says ring=canary, b says ring=early; a wins."


@pytest.mark.parametrize(
    "others",
    [
        group("b", ["kitchen-2"], ring="early"),
        group("b", ["kitchen-1"], ring="canary"),
        group("b", ["kitchen-1"], site="berlin"),
        group("b", ["hall-*"], ring="early"),
    ],
)
def test_groups_that_do_not(others: Group) -> None:
    assert label_conflicts([group("a", ["kitchen-1"], ring="canary"), others]) == {}


GLOBS = st.text("ab*?", max_size=5)


@given(left=GLOBS, right=GLOBS, text=st.text("ab", max_size=6))
def test_overlap_is_never_missed(left: str, right: str, text: str) -> None:
    if glob_matches(left, text) and glob_matches(right, text):
        assert overlap(left, right)


@given(left=GLOBS, right=GLOBS)
def test_overlap_is_never_made_up(left: str, right: str) -> None:
    texts = {""}
    for _ in range(8):
        texts |= {text + char for text in texts for char in "ab"}
    assert overlap(left, right) == any(
        re.fullmatch(_regex(left), text) and re.fullmatch(_regex(right), text) for text in texts
    )


def _regex(glob: str) -> str:
    return glob.replace("*", ".*").replace("?", ".")
