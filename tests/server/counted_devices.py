"""Devices to be counted, on a clock that the test moves."""

from datetime import UTC, datetime, timedelta

from otaflux_policy.assessing import Spans
from otaflux_policy.canonical import dumps
from otaflux_policy.contract import Policy
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group
from otaflux_server.counting import Counting
from otaflux_server.devices import DeviceRecord
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from tests.server.fleets import NAMESPACE, release

SCAN = 100.0
START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
SPANS = Spans(
    install_grace=timedelta(seconds=50),
    poll_gap=timedelta(seconds=10),
    request_within=timedelta(seconds=20),
)
IDS = ("kitchen-1", "kitchen-2", "lab-1", "lab-2", "stranger")
RELEASES = tuple(release(version) for version in ("1.4.0", "1.5.0"))
STABLE = release("1.3.2")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def known(policies: PolicyStore, *, clock: Clock) -> Counting:
    return Counting(policies, spans=SPANS, scan_seconds=SCAN, clock=clock)


def store(*published: Policy | Group) -> PolicyStore:
    policies = PolicyStore(Metrics())
    policies.connected()
    publish(policies, *published)
    return policies


def publish(policies: PolicyStore, *published: Policy | Group) -> None:
    for item in published:
        apply = policies.apply_policy if isinstance(item, Policy) else policies.apply_group
        assert apply(item.namespace, item.name, dumps(item))


def device(name: str, clock: Clock, *, polled: bool = True, **fields: str) -> DeviceRecord:
    """A device that counts, unless it is not `polled`."""
    record = DeviceRecord(Device(NAMESPACE, name, **fields), "native", clock.now)
    if polled:
        record.first_poll, record.last_poll = clock.now - SCAN, clock.now
    return record


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Steps:
    """A clock by which every slice is over after one device."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 1.0
        return self._now


def stepwise(policies: PolicyStore, clock: Clock) -> Counting:
    return Counting(policies, spans=SPANS, scan_seconds=SCAN, clock=clock, monotonic=Steps())


def settle(counting: Counting) -> int:
    """How many slices it takes."""
    slices = 0
    while not counting.settled:
        counting.work(0)
        slices += 1
    return slices
