"""Placing many devices gives what the policy package decides for one."""

from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy.decisions import Match, match, precedence
from otaflux_policy.devices import Device
from otaflux_policy.groups import Groups
from otaflux_policy.reasons import DecisionReason
from otaflux_server.placing import place, placer
from otaflux_server.rules import Rules
from tests.policy.strategies import DEVICES, MODELS, VERSIONS, groups, policies
from tests.server.fleets import NAMESPACE, group, policy

devices = st.builds(
    Device,
    namespace=st.just("home"),
    id=st.sampled_from((*DEVICES, "somebody-else")),
    model=st.none() | st.just("") | st.sampled_from(MODELS),
    version=st.none() | st.sampled_from(VERSIONS),
)
rules = st.builds(
    lambda found, grouped: Rules(7, tuple(sorted(found, key=precedence)), Groups(grouped)),
    st.lists(policies, max_size=4, unique_by=lambda item: item.name),
    groups,
)


@given(rules, devices)
def test_it_is_what_match_says(rules: Rules, device: Device) -> None:
    placed = place(device, rules)
    expected = match(rules.policies, rules.groups, device)
    assert placed.matched == expected
    assert placed.holds(device, rules)


@given(rules, devices)
def test_shadowed_are_those_that_would_have_it_without_the_winner(
    rules: Rules, device: Device
) -> None:
    placed = place(device, rules)
    left = list(rules.policies)
    losers: list[str] = []
    while isinstance(found := match(left, rules.groups, device), Match):
        losers.append(found.policy.name)
        left.remove(found.policy)
    assert placed.shadowed == tuple(losers[1:])


def test_the_order_is_that_of_the_rollouts_however_they_select() -> None:
    found = (
        policy("by-id", priority=3, device_selector={"names": ["b"]}),
        policy("by-label", priority=2, device_selector={"matchLabels": {"ring": "canary"}}),
        policy("by-glob", priority=1, device_selector={"names": ["?"]}),
        policy("everyone"),
        policy("both", priority=-1, device_selector={"names": ["a", "b*"]}),
        policy("last", priority=-2, device_selector={"matchLabels": {"site": "berlin"}}),
    )
    labels = {"ring": "canary", "site": "berlin"}
    known = Rules(1, found, Groups([group("some", names=("a", "b"), labels=labels)]))
    losers = ("by-glob", "everyone", "both", "last")
    first = place(Device(NAMESPACE, "a"), known)
    assert isinstance(first.matched, Match)
    assert (first.matched.policy.name, first.shadowed) == ("by-label", losers)
    second = place(Device(NAMESPACE, "b"), known)
    assert isinstance(second.matched, Match)
    assert (second.matched.policy.name, second.shadowed) == ("by-id", ("by-label", *losers))


def test_rules_are_compiled_once() -> None:
    known = Rules(1, (policy(),), Groups())
    assert placer(known) is placer(known)
    assert placer(known) is not placer(Rules(1, (policy(),), Groups()))


def test_a_placement_ends_with_the_rules_and_with_the_device() -> None:
    device = Device(NAMESPACE, "a")
    known = Rules(1, (policy(),), Groups())
    placed = place(device, known)
    assert placed.holds(Device(NAMESPACE, "a"), known)
    assert not placed.holds(Device(NAMESPACE, "a", version="1.0.0"), known)
    assert not placed.holds(device, Rules(2, (policy(),), Groups()))


def test_nothing_matches_where_there_is_nothing() -> None:
    placed = place(Device(NAMESPACE, "a"), Rules(1, (), Groups()))
    assert (placed.matched, placed.shadowed) == (DecisionReason.NO_MATCH, ())
