"""Selectors, groups, versions, cohorts: the parts that a match is made of."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy import versions
from otaflux_policy.cohorts import BUCKETS, bucket, within
from otaflux_policy.devices import InvalidDeviceId, device_id
from otaflux_policy.groups import DEVICE_LABEL, Group, Groups
from otaflux_policy.selectors import DeviceSelector, LabelRequirement, Operator, glob_matches

LABELS = {"ring": "canary", "site": "berlin"}


@pytest.mark.parametrize(
    ("operator", "key", "values", "expected"),
    [
        (Operator.IN, "ring", ("canary", "early"), True),
        (Operator.IN, "ring", ("early",), False),
        (Operator.IN, "missing", ("early",), False),
        (Operator.NOT_IN, "ring", ("canary",), False),
        (Operator.NOT_IN, "ring", ("early",), True),
        (Operator.NOT_IN, "missing", ("early",), True),
        (Operator.EXISTS, "ring", (), True),
        (Operator.EXISTS, "missing", (), False),
        (Operator.DOES_NOT_EXIST, "ring", (), False),
        (Operator.DOES_NOT_EXIST, "missing", (), True),
    ],
)
def test_expressions_mean_what_kubernetes_means(
    operator: Operator, key: str, values: tuple[str, ...], expected: bool
) -> None:
    requirement = LabelRequirement(key=key, operator=operator, values=values)
    assert requirement.matches(LABELS) is expected


@pytest.mark.parametrize(
    ("glob", "device", "expected"),
    [
        ("lab-*", "lab-1", True),
        ("lab-*", "lab-", True),
        ("lab-*", "Lab-1", False),
        ("lab-?", "lab-1", True),
        ("lab-?", "lab-12", False),
        ("lab.1", "labx1", False),
        ("[ab]", "a", False),
        ("*", "anything:at.all", True),
        ("lab", "lab-1", False),
    ],
)
def test_globs_know_only_star_and_question_mark(glob: str, device: str, expected: bool) -> None:
    assert glob_matches(glob, device) is expected


def test_no_glob_takes_for_ever() -> None:
    # 63 stars: by backtracking this would outlive the machine.
    assert not glob_matches("*a" * 63 + "*b", "a" * 128)
    assert glob_matches("*a" * 63 + "*", "a" * 128)


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_globs_mean_what_shells_mean(glob: str, device: str) -> None:
    assert glob_matches(glob, device) is fnmatchcase(device, glob)


def test_selector_parts_are_anded_and_names_ored() -> None:
    selector = DeviceSelector(match_labels={"ring": "canary"}, names=("kitchen-*", "lab-1"))
    assert selector.matches("lab-1", LABELS)
    assert selector.matches("kitchen-9", LABELS)
    assert not selector.matches("hall-1", LABELS)
    assert not selector.matches("lab-1", {})
    assert DeviceSelector().matches("anything", {})


def test_the_first_group_by_name_wins_a_label() -> None:
    groups = Groups(
        [
            Group(namespace="home", name="b", names=("k-1",), labels={"ring": "late", "site": "x"}),
            Group(namespace="home", name="a", names=("k-*",), labels={"ring": "canary"}, model="m"),
        ]
    )
    assert groups.labels("k-1") == {"ring": "canary", "site": "x", DEVICE_LABEL: "k-1"}
    assert groups.labels("other") == {DEVICE_LABEL: "other"}
    assert (groups.model("k-1"), groups.model("other")) == ("m", None)
    assert groups.names_exactly("k-1")
    assert not groups.names_exactly("k-2")


def test_no_group_can_take_a_device_its_own_label() -> None:
    groups = Groups([Group(namespace="h", name="a", names=("*",), labels={DEVICE_LABEL: "other"})])
    assert groups.labels("k-1")[DEVICE_LABEL] == "k-1"


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("1.4.0", "1.3.2", 1),
        ("1.4.0-rc.1", "1.4.0", -1),
        ("1.4.0-rc.2", "1.4.0-rc.10", -1),
        ("1.10.0", "1.9.0", 1),
        ("v1.4.0", "1.4.0", 0),
        ("1.4.0+a", "1.4.0+b", 0),
        ("main-abc", "main-abc", 0),
        ("main-abc", "1.4.0", None),
        ("1.4", "1.4.0", None),
        (None, "1.4.0", None),
        ("1.4.0", None, None),
    ],
)
def test_versions_order_as_semver_says(
    left: str | None, right: str | None, expected: int | None
) -> None:
    assert versions.compare(left, right) == expected


@given(st.text(max_size=30), st.text(max_size=30))
def test_comparing_any_text_never_fails_and_is_antisymmetric(left: str, right: str) -> None:
    there, back = versions.compare(left, right), versions.compare(right, left)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there == -back


def test_build_metadata_makes_another_version() -> None:
    assert not versions.same("1.4.0+a", "1.4.0+b")
    assert versions.same("v1.4.0", "1.4.0")
    assert not versions.same("vmain", "main")


VECTORS = [
    ("home", "thermostat", "sha256:" + "0" * 64, "kitchen-1", 3489),
    ("home", "thermostat", "sha256:" + "0" * 64, "kitchen-2", 1171),
    ("home", "thermostat", "sha256:" + "1" * 64, "kitchen-1", 1635),
    ("office", "gateway", "sha256:" + "f" * 64, "aa:bb:cc:dd:ee:ff", 1663),
]


@pytest.mark.parametrize(("namespace", "rollout", "digest", "device", "expected"), VECTORS)
def test_cohort_vectors(
    namespace: str, rollout: str, digest: str, device: str, expected: int
) -> None:
    assert bucket(namespace, rollout, digest, device) == expected


@given(st.text(), st.integers(1, 99))
def test_growing_a_percentage_never_takes_a_device_out(device: str, percent: int) -> None:
    place = bucket("home", "thermostat", "sha256:" + "0" * 64, device)
    assert 0 <= place < BUCKETS
    assert within(percent, place) <= within(percent + 1, place)
    assert within(100, place)


def test_a_tenth_is_about_a_tenth_and_each_release_draws_anew() -> None:
    def drawn(digest: str) -> set[int]:
        return {i for i in range(10_000) if within(10, bucket("h", "t", digest, f"d-{i}"))}

    one, other = drawn("sha256:" + "0" * 64), drawn("sha256:" + "1" * 64)
    assert 850 < len(one) < 1150
    assert 850 < len(other) < 1150
    assert len(one & other) < 200


@pytest.mark.parametrize("text", ["kitchen-1", "aa:bb:cc:dd:ee:ff", "A", "0", "a" * 128])
def test_device_ids(text: str) -> None:
    assert device_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "a" * 129, "-a", "a b", "a/b", "..%2f", "a\n", "a\0", "ä", "a\r\nX: y"]
)
def test_what_is_no_device_id_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidDeviceId) as refused:
        device_id(text)
    assert not text or text not in str(refused.value)
