"""A remembered decision is always the one that `decide()` would make afresh."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otaflux_policy.attempts import Evidence
from otaflux_policy.canonical import dumps, seal
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import decide
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group, Groups
from otaflux_policy.reasons import DecisionReason
from otaflux_server.artifacts import ArtifactStore, StoredArtifact
from otaflux_server.decisions import Cached, Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.settings import ArtifactSettings
from tests.policy import strategies
from tests.server.fleets import NAMESPACE, policy, release

START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


class World:
    """The server's stores, and beside them what was put in, to decide afresh."""

    def __init__(self, directory: Path) -> None:
        self.now = START
        self.store = PolicyStore(Metrics())
        self.artifacts = ArtifactStore(directory, ArtifactSettings(), Metrics())
        self.decisions = Decisions(self.store, self.artifacts, clock=lambda: self.now)
        self.policies: dict[tuple[str, str], Policy] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.records: dict[tuple[str, str], DeviceRecord] = {}
        self.store.connected()

    def publish(self, item: Policy) -> None:
        item = seal(item)
        if self.store.apply_policy(item.namespace, item.name, dumps(item)):
            self.policies[item.namespace, item.name] = item

    def group(self, item: Group) -> None:
        item = seal(item)
        assert self.store.apply_group(item.namespace, item.name, dumps(item))
        self.groups[item.namespace, item.name] = item

    def have(self, digest: str, present: bool) -> None:
        if present:
            path = Path("never/read")
            self.artifacts._stored[digest] = StoredArtifact(digest, 1, 1, "", "", path)
        else:
            self.artifacts._stored.pop(digest, None)
        self.artifacts._change()

    def decide(self, device: Device) -> Cached:
        """As for a device that says this."""
        key = (device.namespace, device.id)
        record = self.records.setdefault(key, DeviceRecord(device, "test", self.now))
        if record.device != device:
            record.device, record.cached = device, None
        return self.decisions.decide(record)

    def check(self, device: Device) -> None:
        made = self.decide(device)
        groups = (item for (owner, _), item in self.groups.items() if owner == device.namespace)
        now = datetime.fromtimestamp(self.now, UTC)
        evidence = Evidence(stored=set(self.artifacts.digests))
        afresh = decide(self.policies.values(), Groups(groups), device, evidence, now)
        if self.store.rules(device.namespace).held:
            assert made.decision.reason is DecisionReason.HOLD
        else:
            assert made.decision == afresh
        release = made.decision.release
        stored = None if release is None else self.artifacts.get(release.firmware.digest)
        assert made.artifact == stored


steps: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("publish"), strategies.policies),
    st.tuples(st.just("remove"), st.sampled_from(strategies.ROLLOUTS)),
    st.tuples(st.just("group"), strategies.groups),
    st.tuples(st.just("have"), st.tuples(st.sampled_from(strategies.DIGESTS), st.booleans())),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 1.0, 600.0, 5000.0, 90000.0])),
    st.tuples(st.just("poll"), strategies.devices),
    st.tuples(st.just("poll"), strategies.devices),
)


@given(st.lists(steps, max_size=25))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
def test_a_cached_decision_is_a_fresh_one(sequence: list[tuple[str, Any]]) -> None:
    world = World(Path("never/read"))
    for digest in strategies.DIGESTS[:3]:
        world.have(digest, True)
    polled: dict[tuple[str, str], Device] = {}
    for what, value in sequence:
        match what:
            case "publish":
                world.publish(value)
            case "remove":
                for namespace in strategies.NAMESPACES:
                    world.store.remove_policy(namespace, value)
                    world.policies.pop((namespace, value), None)
            case "group":
                for item in value:
                    world.group(item)
            case "have":
                world.have(*value)
            case "pass":
                world.now += value
            case "poll":
                polled[value.namespace, value.id] = value
        for device in polled.values():
            world.check(device)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nothing_changed_gives_the_very_same(world: World) -> None:
    world.publish(policy(target=release("1.4.0")))
    made = world.decide(Device(NAMESPACE, "a"))
    assert world.decide(Device(NAMESPACE, "a")) is made
    assert world.decide(Device(NAMESPACE, "a", model="x")) is not made


def test_a_window_opens_and_closes_by_itself(world: World) -> None:
    target = release("1.4.0")
    world.have(target.firmware.digest, True)
    window = {"schedule": "0 2 * * *", "duration": 3600, "timeZone": "UTC"}
    world.publish(policy(target=target, windows=[window]))
    reasons = []
    for hour in (1.0, 1.99, 2.0, 2.99, 3.0, 25.99, 26.0):
        world.now = START + hour * 3600
        reasons.append(world.decide(Device(NAMESPACE, "a")).decision.reason.value)
    closed, opened = "OutsideWindow", "Offered"
    assert reasons == [closed, closed, opened, opened, closed, closed, opened]


def test_without_any_policy_read_everything_holds(tmp_path: Path) -> None:
    store = PolicyStore(Metrics())
    artifacts = ArtifactStore(tmp_path, ArtifactSettings(), Metrics())
    record = DeviceRecord(Device(NAMESPACE, "a"), "test", START)
    made = Decisions(store, artifacts).decide(record)
    assert made.decision.reason is DecisionReason.HOLD


def test_a_policy_that_was_never_good_holds_its_namespace(world: World) -> None:
    world.store.reject_policy(NAMESPACE, "broken", "x")
    device, other = Device(NAMESPACE, "a"), Device("office", "a")
    assert world.decide(device).decision.reason is DecisionReason.HOLD
    assert world.decide(other).decision.reason is DecisionReason.NO_MATCH
