"""`WWW-Authenticate` as registries send it, and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_oci.challenges import Challenge, parse_challenges

AUTH = {"realm": "https://auth.example.com/token"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="Registry"', [("basic", {"realm": "Registry"})]),
        (
            'Bearer realm="https://auth.example.com/token",service="a, b",scope="r:x:pull,push"',
            [("bearer", {**AUTH, "service": "a, b", "scope": "r:x:pull,push"})],
        ),
        (
            'Basic realm="a", Bearer realm="https://auth.example.com/token" , error="invalid"',
            [("basic", {"realm": "a"}), ("bearer", {**AUTH, "error": "invalid"})],
        ),
        ("Negotiate", [("negotiate", {})]),
        ("Negotiate YWJj==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (r'Basic realm="say \"hi\", \\"', [("basic", {"realm": 'say "hi", \\'})]),
        (
            "BEARER REALM = https://auth.example.com/token , Service=x",
            [("bearer", {**AUTH, "service": "x"})],
        ),
        (",, Basic realm=x,", [("basic", {"realm": "x"})]),
        ('Bearer realm="one",realm="two"', [("bearer", {"realm": "one"})]),
        ("", []),
        ('"', []),
        ('Bearer realm="unfinished', [("bearer", {})]),
    ],
)
def test_parsing(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges([header])] == expected


def test_several_header_lines() -> None:
    assert parse_challenges(["Basic realm=a", "Bearer realm=b"]) == [
        Challenge("basic", {"realm": "a"}),
        Challenge("bearer", {"realm": "b"}),
    ]


@given(st.lists(st.text(alphabet='Bb ,="\\realm:/.?&\t', max_size=60), max_size=3))
def test_never_raises(headers: list[str]) -> None:
    parse_challenges(headers)


@given(
    st.from_regex(r"[A-Za-z]{1,10}", fullmatch=True),
    st.dictionaries(
        st.from_regex(r"[a-z]{1,10}", fullmatch=True),
        st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
        min_size=1,
        max_size=4,
    ),
)
def test_quoted_values_are_read_as_written(scheme: str, parameters: dict[str, str]) -> None:
    written = ", ".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in parameters.items()
    )
    assert parse_challenges([f"{scheme} {written}"]) == [Challenge(scheme.lower(), parameters)]
