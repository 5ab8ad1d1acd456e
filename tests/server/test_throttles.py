"""Who is told to wait, by a clock of the test's own."""

from collections.abc import Callable

import pytest

from otaflux_policy.devices import Device
from otaflux_server.devices import DeviceRecord
from otaflux_server.rates import POLL_COST
from otaflux_server.refusals import Refusal
from otaflux_server.replies import Refused
from otaflux_server.settings import ConnectionSettings
from otaflux_server.throttles import Throttle


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def throttle(
    clock: Clock, is_shared: Callable[[str], bool] = lambda _: False, **limits: float
) -> Throttle:
    settings = ConnectionSettings.model_validate(limits)
    return Throttle(settings, is_shared, clock)


def device(namespace: str = "home") -> DeviceRecord:
    return DeviceRecord(Device(namespace, "a"), "native", 0.0)


def refusal(call: Callable[[], None]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def test_a_device_that_asks_too_often_waits_as_long_as_it_is_told() -> None:
    clock = Clock()
    held = throttle(clock, requests_per_second=0.5, requests_burst=2)
    record = device()
    for _ in range(2):
        held.ask(record, POLL_COST)
    refused = refusal(lambda: held.ask(record, POLL_COST))
    assert (refused.status, refused.reason) == (429, Refusal.TOO_MANY_REQUESTS)
    assert refused.headers == ((b"Retry-After", b"2"),)
    clock.now += 2
    held.ask(record, POLL_COST)


def test_the_same_id_in_another_namespace_is_another_device() -> None:
    held = throttle(Clock(), requests_per_second=1, requests_burst=1)
    record = device()
    held.ask(record, POLL_COST)
    held.ask(device("other"), POLL_COST)
    refusal(lambda: held.ask(record, POLL_COST))


def test_an_address_is_refused_for_its_refusals_alone() -> None:
    clock = Clock()
    held = throttle(clock, refusals_per_second=1, refusals_burst=2)
    for _ in range(2):
        held.enter("192.0.2.1")
        held.refused("192.0.2.1", Refusal.TOKEN_UNKNOWN)
    refused = refusal(lambda: held.enter("192.0.2.1"))
    assert (refused.status, refused.reason) == (429, Refusal.TOO_MANY_REFUSALS)
    held.enter("192.0.2.2")
    # Being told to wait is no reason to wait longer.
    held.refused("192.0.2.1", refused.reason)
    assert held.refusing
    clock.now += 1
    held.enter("192.0.2.1")
    assert not held.refusing


def test_a_device_that_is_told_to_wait_is_not_held_against_its_address() -> None:
    held = throttle(Clock(), refusals_per_second=1, refusals_burst=1)
    for reason in (Refusal.TOO_MANY_REQUESTS, Refusal.TOO_MANY_DOWNLOADS, Refusal.ARTIFACT_LOST):
        held.refused("192.0.2.1", reason)
    assert not held.refusing
    held.refused("192.0.2.1", Refusal.TOKEN_UNKNOWN)
    assert held.refusing


def test_all_of_an_ipv6_network_is_one_address() -> None:
    held = throttle(Clock(), refusals_per_second=1, refusals_burst=1)
    held.refused("2001:db8::1", Refusal.TOKEN_UNKNOWN)
    refusal(lambda: held.enter("2001:db8::2"))
    held.enter("2001:db8:0:1::2")


def test_what_one_device_behind_a_proxy_does_is_not_held_against_the_others() -> None:
    held = throttle(Clock(), lambda _: True, refusals_per_second=1, refusals_burst=1)
    for _ in range(10):
        held.refused("192.0.2.1", Refusal.TOKEN_UNKNOWN)
    held.enter("192.0.2.1")


def test_downloads_at_one_time() -> None:
    held = throttle(Clock(), max_downloads_per_device=2)
    held.download(1)
    refused = refusal(lambda: held.download(2))
    assert (refused.status, refused.reason) == (429, Refusal.TOO_MANY_DOWNLOADS)
