"""The canonical form: what is written is read back, and nothing else is believed."""

import json

import pytest
from hypothesis import given

from otaflux_policy import canonical
from otaflux_policy.canonical import InvalidPolicy
from otaflux_policy.contract import POLICY_LIMIT, Policy
from otaflux_policy.groups import Group
from tests.policy import strategies


def loads(text: str) -> Policy:
    return canonical.loads_policy(text, namespace="home", name="thermostat")


@pytest.fixture
def text() -> str:
    policy = Policy.model_validate(
        {
            "namespace": "home",
            "name": "thermostat",
            "createdAt": "2026-03-01T12:00:00Z",
            "deviceSelector": {},
            "deviceTimeout": 86400,
            "activeWithin": 604800,
        }
    )
    return canonical.dumps(canonical.seal(policy))


@given(strategies.policies)
def test_a_policy_survives_the_round_trip(policy: Policy) -> None:
    sealed = canonical.seal(policy)
    text = canonical.dumps(sealed)
    again = canonical.loads_policy(text, namespace=policy.namespace, name=policy.name)
    assert again == sealed
    assert canonical.dumps(again) == text


@given(strategies.groups)
def test_a_group_survives_the_round_trip(groups: list[Group]) -> None:
    for group in groups:
        sealed = canonical.seal(group)
        text = canonical.dumps(sealed)
        assert canonical.loads_group(text, namespace="home", name=group.name) == sealed


@given(strategies.policies, strategies.policies)
def test_the_revision_names_the_content(one: Policy, other: Policy) -> None:
    assert (canonical.revision(one) == canonical.revision(other)) == (one == other)


def test_the_canonical_form_is_rfc_8785(text: str) -> None:
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_an_edited_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy, match="revision"):
        loads(text.replace('"priority":0', '"priority":1'))


def test_a_renamed_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy, match="another object"):
        canonical.loads_policy(text, namespace="home", name="other")
    with pytest.raises(InvalidPolicy, match="another object"):
        canonical.loads_policy(text, namespace="office", name="thermostat")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "invalid at"),
        ('"policy"', "invalid at its root"),
        ('{"namespace":"a","namespace":"b"}', "not JSON"),
    ],
)
def test_what_is_no_policy_is_refused(broken: str, message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        loads(broken)


def test_an_unknown_field_is_refused_by_name(text: str) -> None:
    body = json.loads(text) | {"novelty": True}
    with pytest.raises(InvalidPolicy, match="novelty"):
        loads(json.dumps(body))


def test_an_unknown_schema_version_is_refused(text: str) -> None:
    body = json.loads(text) | {"schemaVersion": 2}
    with pytest.raises(InvalidPolicy, match="schemaVersion"):
        loads(json.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        {"run": 2**60},
        {"sequence": 2**53},
        {"sequence": -(2**60)},
        {"run": 10**400},
        {"deviceSelector": {"names": ["\ud800"]}},
        {"deviceSelector": {"matchLabels": {"\ud800": "x"}}},
    ],
    ids=str,
)
def test_what_has_no_canonical_form_is_refused(text: str, change: dict[str, object]) -> None:
    with pytest.raises(InvalidPolicy):
        loads(json.dumps(json.loads(text) | change))


def test_an_oversized_policy_is_refused_unread() -> None:
    with pytest.raises(InvalidPolicy, match="larger"):
        loads(" " * (POLICY_LIMIT + 1))
