"""Token buckets: what they let through over any time, and that they stay small."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_server.rates import PART_COST, POLL_COST, Rates, network_of
from otaflux_server.settings import ConnectionSettings

LIMITS = ConnectionSettings()


def rates() -> Rates[str]:
    return Rates(LIMITS.requests_per_second, LIMITS.requests_burst, 1000)


def passed(every: float, cost: float, seconds: float) -> int:
    """How many of the requests of a loop, one `every` so many seconds, get through."""
    buckets = rates()
    count = round(seconds / every)
    return sum(not buckets.take("a", cost, 100 + number * every) for number in range(count))


def test_the_defaults_let_a_download_in_256_ranges_through_at_once_thrice() -> None:
    buckets = rates()
    assert not any(buckets.take("a", PART_COST, 0.0) for _ in range(3 * 256))


def test_the_defaults_let_a_loop_by_hand_through() -> None:
    assert passed(0.1, POLL_COST, 600) == 6000


def test_the_defaults_stop_a_loop_at_a_thousand_a_second() -> None:
    most = LIMITS.requests_burst + 10 * LIMITS.requests_per_second
    assert most - 1 <= passed(0.001, POLL_COST, 10) <= most


def test_who_waits_as_told_gets_through() -> None:
    buckets = rates()
    now = 5.0
    while not (wait := buckets.take("a", 1, now)):
        pass
    assert buckets.take("a", 1, now + wait * 0.9) > 0
    assert buckets.take("a", 1, now + wait + 1e-6) == 0


def test_one_key_takes_nothing_from_another() -> None:
    buckets: Rates[str] = Rates(1, 1, 10)
    assert buckets.take("a", 1, 0) == 0
    assert buckets.take("a", 1, 0) > 0
    assert buckets.take("b", 1, 0) == 0


def test_waiting_takes_nothing() -> None:
    buckets: Rates[str] = Rates(1, 1, 10)
    assert buckets.wait("a", 1, 0) == 0
    assert buckets.take("a", 1, 0) == 0
    assert buckets.wait("a", 1, 0) == pytest.approx(1)
    assert buckets.wait("a", 1, 1) == 0


def test_what_never_fits_is_not_waited_for_without_end() -> None:
    buckets: Rates[str] = Rates(1, 5, 10)
    assert buckets.take("a", 1000, 0) == 5


def test_the_table_is_bounded_and_remembers_who_goes_on_asking() -> None:
    buckets: Rates[int] = Rates(0.001, 1, 100)
    for number in range(10_000):
        buckets.take(number, 1, 0)
        assert len(buckets) <= 101
        if number:
            assert buckets.take(number - 1, 1, 0) > 0


@given(
    st.floats(0.1, 100),
    st.floats(1, 500),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from([PART_COST, POLL_COST])), max_size=200),
)
def test_never_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    buckets: Rates[str] = Rates(rate, burst, 10)
    now = taken = 0.0
    for pause, cost in steps:
        now += pause
        foretold = buckets.wait("a", cost, now)
        wait = buckets.take("a", cost, now)
        assert wait == foretold
        assert math.isfinite(wait)
        if wait == 0:
            taken += cost
        assert taken <= burst + rate * now + 1e-6 * (1 + taken)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_addresses_of_one_network_are_one(host: str, network: str) -> None:
    assert network_of(host) == network
