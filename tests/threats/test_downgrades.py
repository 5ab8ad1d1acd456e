"""Downgrade: no device is moved below the version it reports, unless the policy allows it.

The order of versions is written down here once more (semver.org 2.0.0 §11), without a library.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy import versions
from otaflux_policy.attempts import Evidence
from otaflux_policy.contract import Artifact, Downgrade, Policy, Release, Ring
from otaflux_policy.decisions import Decision, decide
from otaflux_policy.devices import Device
from otaflux_policy.groups import Groups
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.selectors import DeviceSelector

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BOTH = pytest.mark.parametrize("mitigated", [True, False])

Parts = tuple[tuple[int, int, int], tuple[int | str, ...]]
_numbers = st.integers(0, 3) | st.integers(0, 10**12)
_identifiers = _numbers | st.from_regex(r"[0-9]?[a-z-][a-z0-9-]{0,3}", fullmatch=True)
_parts: st.SearchStrategy[Parts] = st.tuples(
    st.tuples(_numbers, _numbers, _numbers), st.lists(_identifiers, max_size=3).map(tuple)
)
_writing = st.tuples(st.sampled_from(["", "v"]), st.sampled_from(["", "+build.7", "+0"]))


def order(parts: Parts) -> tuple[object, ...]:
    """A key that sorts as §11 says: numbers before words, no pre-release after all of them."""
    core, pre = parts
    words = tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in pre)
    return core, not pre, words


def text(parts: Parts, writing: tuple[str, str]) -> str:
    core, pre = parts
    (prefix, build) = writing
    suffix = f"-{'.'.join(map(str, pre))}" if pre else ""
    return f"{prefix}{'.'.join(map(str, core))}{suffix}{build}"


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """An older version and a newer one; half of them are alike but for the last part."""
    one = draw(_parts)
    other = draw(_parts | st.just((one[0], draw(_parts)[1])))
    older, newer = sorted((one, other), key=order)
    if order(older) == order(newer):
        newer = ((older[0][0] + 1, *older[0][1:]), newer[1])
    return text(older, draw(_writing)), text(newer, draw(_writing))


def release(version: str, number: int = 1) -> Release:
    artifact = Artifact(
        digest=f"sha256:{number:064x}", size=1, media_type="x", repository="example.com/firmware"
    )
    return Release(version=version, digest=f"sha256:{number + 100:064x}", artifacts=(artifact,))


def decision(running: str, offered: str, *, open_ring: bool, downgrade: Downgrade) -> Decision:
    """For a device in a ring that is open for `offered`, or closed with it as stable release."""
    item = release(offered)
    policy = Policy(
        namespace="home",
        name="thermostat",
        created_at=NOW,
        device_selector=DeviceSelector(),
        run=1,
        target=item if open_ring else release("9999999999999.0.0", 2),
        stable=None if open_ring else item,
        rings=(Ring(name="fleet", open=open_ring),),
        downgrade=downgrade,
        device_timeout=86400,
        active_within=604800,
    )
    device = Device("home", "kitchen-1", version=running)
    evidence = Evidence(stored=frozenset({item.firmware.digest}))
    return decide([policy], Groups(()), device, evidence, NOW)


@BOTH
@pytest.mark.parametrize("open_ring", [True, False])
def test_an_older_release_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, mitigated: bool, open_ring: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(versions, "compare", lambda *_: -1)

    @given(pairs())
    def property_(pair: tuple[str, str]) -> None:
        older, running = pair
        found = decision(running, older, open_ring=open_ring, downgrade=Downgrade.FORBID)
        if mitigated:
            assert found.release is None
            if open_ring:
                assert found.reason is DecisionReason.DOWNGRADE_FORBIDDEN
        else:
            assert found.release is not None
            assert found.release.version == older

    property_()


@given(pairs())
def test_a_newer_one_is(pair: tuple[str, str]) -> None:
    running, newer = pair
    for open_ring in (True, False):
        found = decision(running, newer, open_ring=open_ring, downgrade=Downgrade.FORBID)
        assert found.release is not None
        assert found.release.version == newer


@given(pairs())
def test_the_policy_may_allow_it_in_rings_that_are_open(pair: tuple[str, str]) -> None:
    older, running = pair
    found = decision(running, older, open_ring=True, downgrade=Downgrade.ALLOW)
    assert found.release is not None
    assert decision(running, older, open_ring=False, downgrade=Downgrade.ALLOW).release is None
