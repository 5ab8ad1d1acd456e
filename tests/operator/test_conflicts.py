"""Groups that give one device different values of one label."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_operator import conflicts
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


def test_thousands_of_globs_are_compared_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    whole = conflicts.overlap

    def counted(left: str, right: str) -> bool:
        compared.append((left, right))
        return whole(left, right)

    monkeypatch.setattr(conflicts, "overlap", counted)
    first = [f"aa:{index:04}:*" for index in range(1000)]
    second = [f"bb:{index:04}:*" for index in range(1000)]
    assert label_conflicts([group("a", first, ring="x"), group("b", second, ring="y")]) == {}
    assert compared == []
    found = label_conflicts(
        [group("a", first, ring="x"), group("b", [*second, "aa:05*"], ring="y")]
    )
    assert found["a"].startswith("Devices that match aa:0500:* and aa:05*")
    assert compared == [("aa:0500:*", "aa:05*")]
    compared.clear()
    monkeypatch.setattr(conflicts, "COMPARISONS", 10)
    first, second = [f"*a{index}" for index in range(9)], [f"*b{index}" for index in range(9)]
    assert label_conflicts([group("a", first, ring="x"), group("b", second, ring="y")]) == {}
    assert len(compared) == 10


@given(st.lists(st.text("ab*?", min_size=1, max_size=4), max_size=4), st.data())
def test_groups_conflict_exactly_where_two_of_their_names_overlap(
    first: list[str], data: st.DataObject
) -> None:
    second = data.draw(st.lists(st.text("ab*?", min_size=1, max_size=4), max_size=4))
    found = label_conflicts([group("a", first, ring="x"), group("b", second, ring="y")])
    assert bool(found) is any(overlap(left, right) for left in first for right in second)


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
