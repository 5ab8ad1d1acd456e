"""Which devices each ring would take: the same as what they get once it is released."""

import time
from collections.abc import Iterator

import httpx
import pytest

from otaflux_policy.contract import Policy, Release, Ring
from otaflux_policy.decisions import Match, match
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group, Groups
from otaflux_server.devices import DeviceRecord
from otaflux_server.previewing import Preview, preview
from otaflux_server.rules import Rules
from otaflux_server.slices import Slices
from tests.server.fleets import NAMESPACE, Served, group, policy, release

NOW = time.time()
TARGET = release("1.4.0")
RINGS = (
    Ring(name="canary", selector={"names": ["d0*"]}, open=True),
    Ring(name="early", percent=30),
    Ring(name="rest"),
)


def records(count: int, **fields: str) -> list[DeviceRecord]:
    return [
        DeviceRecord(Device(NAMESPACE, f"d{i:03}", **fields), "native", NOW) for i in range(count)
    ]


def rules(*published: Policy | Group) -> Rules:
    found = tuple(item for item in published if isinstance(item, Policy))
    return Rules(1, found, Groups(item for item in published if isinstance(item, Group)))


async def shown(
    item: Policy,
    known: Rules,
    devices: list[DeviceRecord],
    *,
    scanners: tuple[str, ...] = (),
    limit: int = 20,
    digest: str | None = None,
    slices: Slices | None = None,
) -> Preview:
    return await preview(
        item,
        known,
        devices,
        lambda record: record.device.id not in scanners,
        NOW,
        limit=limit,
        digest=digest,
        slices=slices,
    )


async def test_rings_take_what_they_take_in_fact() -> None:
    item = policy(target=TARGET, rings=RINGS)
    devices = records(300)
    found = await shown(item, rules(item), devices, limit=1000)
    taken: dict[str, list[str]] = {ring.name: [] for ring in RINGS}
    for record in devices:
        matched = match([item], Groups(), record.device)
        assert isinstance(matched, Match)
        assert matched.ring is not None
        taken[matched.ring.name].append(record.device.id)
    assert {ring.name: list(ring.first) for ring in found.rings} == taken
    assert [ring.open for ring in found.rings] == [True, False, False]
    assert 0 < found.rings[1].devices < 300
    assert found.unplaced.devices == 0
    assert (found.digest, found.version, found.revision) == (TARGET.digest, "1.4.0", item.revision)


async def test_the_first_ids_are_named_of_however_many() -> None:
    item = policy(rings=(Ring(name="all"),), target=TARGET)
    devices = records(999)
    found = await shown(item, rules(item), list(reversed(devices)), limit=3)
    assert found.rings[0].first == ("d000", "d001", "d002")
    assert found.rings[0].devices == 999


class TestReleases:
    async def test_shares_are_those_of_the_candidate(self) -> None:
        candidate = release("1.5.0")
        devices = records(200)
        item = policy(target=TARGET, candidate=candidate, rings=RINGS)
        found = await shown(item, rules(item), devices)
        later = policy(target=candidate, rings=RINGS)
        assert found.rings == (await shown(later, rules(later), devices)).rings
        assert (found.digest, found.version) == (candidate.digest, "1.5.0")

    async def test_another_digest_can_be_tried(self) -> None:
        devices = records(200)
        other = release("1.6.0")
        item = policy(target=TARGET, rings=RINGS)
        found = await shown(item, rules(item), devices, digest=other.digest)
        later = policy(target=other, rings=RINGS)
        assert found.rings == (await shown(later, rules(later), devices)).rings
        assert found.rings != (await shown(item, rules(item), devices)).rings
        assert (found.digest, found.version) == (other.digest, None)

    @pytest.mark.parametrize("stable", [None, TARGET])
    async def test_before_anything_is_released(self, stable: Release | None) -> None:
        item = policy(stable=stable, rings=RINGS[:2])
        found = await shown(item, rules(item), records(200))
        assert (found.rings[1].devices > 0) is (stable is not None)
        assert found.rings[0].devices == 100
        assert found.unplaced.devices + sum(ring.devices for ring in found.rings) == 200


async def test_who_is_left_out_is_said() -> None:
    item = policy(
        target=TARGET,
        rings=(Ring(name="all"),),
        compatibility={"models": ["m1"], "minVersion": "1.2.0"},
        device_selector={"names": ["d*"]},
        active_within=100,
    )
    winner = policy("winner", priority=1, device_selector={"names": ["d0"]}, target=TARGET)
    devices = [
        DeviceRecord(Device(NAMESPACE, *fields), "native", NOW)
        for fields in (
            ("d0", "m1", "1.3.0"),
            ("d1", "m1", "1.3.0"),
            ("d2", None, "1.3.0"),
            ("d3", "m2", "1.3.0"),
            ("d4", "m1", "1.1.0"),
            ("d5", "m1", "garbage"),
            ("d6", "m1", "1.3.0"),
            ("d7", "m1", "1.3.0"),
            ("x", "m1", "1.3.0"),
        )
    ]
    devices.append(DeviceRecord(Device("office", "d1", "m1", "1.3.0"), "native", NOW))
    devices[7].last_seen = NOW - 101
    found = await shown(item, rules(winner, item), devices, scanners=("d6",))
    (ring,) = found.rings
    assert (ring.first, ring.devices, ring.active) == (("d1", "d7"), 2, 1)
    assert [(shadow.rollout, shadow.first) for shadow in found.shadowed] == [("winner", ("d0",))]
    assert {group.why: group.first for group in found.incompatible} == {
        "the model is unknown": ("d2",),
        "the model is not one of compatibility.models": ("d3",),
        "the version is older than 1.2.0": ("d4",),
        "the version is unknown or has no order against 1.2.0": ("d5",),
    }
    assert (found.unknown_models, found.uncounted) == (1, 1)


async def test_a_model_may_come_from_a_group() -> None:
    item = policy(target=TARGET, compatibility={"models": ["m1"]})
    known = rules(item, group("some", names=("d*",), model="m1"))
    found = await shown(item, known, records(3))
    assert (found.rings[0].devices, found.unknown_models) == (3, 0)


async def test_others_have_their_turn() -> None:
    class Counted(Slices):
        rests = 0

        async def rest(self) -> None:
            self.rests += 1
            await super().rest()

    slices = Counted(0)
    item = policy(target=TARGET)
    await shown(item, rules(item), records(10), slices=slices)
    assert slices.rests == 10


class TestInternalApi:
    @pytest.fixture
    def api(self, served: Served) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=served.server.internal_url) as client:
            yield client

    def test_it_is_asked_for(self, served: Served, api: httpx.Client) -> None:
        served.apply(
            policy(candidate=TARGET, rings=RINGS), group("some", names=("d001", "d002", "e1"))
        )
        for device in ("d001", "d002", "e1", "scanner"):
            served.get(f"/version?device={device}")
        path = f"/internal/v1/rollouts/{NAMESPACE}/thermostat/preview"
        found = api.get(path, params={"limit": 1}).json()
        assert found["rings"][0] == {
            "name": "canary",
            "open": True,
            "devices": 2,
            "active": 2,
            "first": ["d001"],
        }
        assert (found["version"], found["uncounted"]) == ("1.4.0", 1)
        assert api.get(path, params={"digest": "sha256:" + "0" * 64}).status_code == 200
        assert api.get(path, params={"digest": "1.4.0"}).status_code == 422
        assert api.get(path, params={"limit": 1001}).status_code == 422

    def test_an_unknown_rollout_is_404(self, api: httpx.Client) -> None:
        assert api.get(f"/internal/v1/rollouts/{NAMESPACE}/nobody/preview").status_code == 404
