"""Simulated devices against a server of the tests' own: each step, each way to go wrong."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from otaflux_cli.control_plane.processes import free_port
from otaflux_cli.firmware.images import make_image
from otaflux_cli.simulation.devices import Behaviour, Counted, DeviceState, NativeTakes
from otaflux_cli.simulation.exchanges import InvalidServerUrl
from otaflux_cli.simulation.fleets import Fleet, FleetSettings, ProtocolMix, device_ids
from tests.cli.commands import otaflux, otaflux_async
from tests.cli.device_servers import DeviceServer, device_server

CEILING = 30.0
IMAGE = make_image("1.4.0", size=64 * 1024)
BOTH = pytest.mark.parametrize("protocol", [ProtocolMix.NATIVE, ProtocolMix.JSON])


def settings(**changed: Any) -> FleetSettings:
    quick: dict[str, Any] = {"interval": 0.05, "reboot": 0.01, "slow_download": 0.2}
    return FleetSettings(**{**quick, **changed})


@pytest.fixture
async def server() -> AsyncIterator[DeviceServer]:
    async with device_server("1.4.0", IMAGE) as made:
        yield made


async def test_a_mixed_fleet_downloads_verifies_and_runs_the_release(server: DeviceServer) -> None:
    fleet = Fleet(server.url, device_ids(12), settings=settings(version="1.3.2"))
    assert fleet.summary().by_version == {"1.3.2": 12}
    async with fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
    summary = fleet.summary()
    assert summary.by_state == {("1.4.0", DeviceState.UPDATED): 12}
    assert summary.counted[Counted.DOWNLOADS] == 12
    assert summary.counted[Counted.BYTES] == 12 * len(IMAGE)
    assert summary.counted[Counted.ERRORS] == 0
    assert server.requests["/firmware"] == 6
    assert server.requests["/artifacts"] == 6
    assert server.requests["leading CRLF"] >= 6, "as the deployed native client sends it"
    states = [report["state"] for report in server.reports if report["device"] == "sim-00002"]
    assert states == ["Downloading", "Downloaded", "Installing", "Updated"]


@BOTH
async def test_a_device_that_runs_the_release_downloads_nothing(
    server: DeviceServer, protocol: ProtocolMix
) -> None:
    async with Fleet(server.url, ["kitchen-1"], protocol, settings(version="1.4.0")) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 3, CEILING
        )
    assert fleet.summary().by_state == {("1.4.0", DeviceState.IDLE): 1}
    assert fleet.summary().counted[Counted.DOWNLOADS] == 0


async def test_a_native_device_never_takes_an_older_release(server: DeviceServer) -> None:
    async with Fleet(
        server.url, ["kitchen-1"], ProtocolMix.NATIVE, settings(version="2.0.0")
    ) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 3, CEILING
        )
    assert fleet.summary().by_version == {"2.0.0": 1}


async def test_no_offer_leaves_every_device_as_it_is(server: DeviceServer) -> None:
    server.offering = False
    async with Fleet(server.url, device_ids(4), settings=settings()) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 8, CEILING
        )
    assert fleet.summary().by_state == {("1.0.0", DeviceState.IDLE): 4}
    assert fleet.summary().counted[Counted.ERRORS] == 0


async def test_a_json_device_resumes_where_the_server_cut_it_off(server: DeviceServer) -> None:
    server.cut = True
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.JSON, settings()) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
    assert fleet.summary().counted[Counted.RESUMES] == 1
    assert fleet.summary().counted[Counted.BYTES] == len(IMAGE), "no byte came twice"
    assert any(f"Range: bytes={len(IMAGE) // 2}-" in head for head in server.heads)


async def test_a_device_that_loses_its_connection_resumes(server: DeviceServer) -> None:
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.JSON, settings(breaks=100)) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
    assert fleet.summary().counted[Counted.RESUMES] == 1


@BOTH
async def test_corrupt_bytes_are_never_installed(
    server: DeviceServer, protocol: ProtocolMix
) -> None:
    server.corrupt = True
    async with Fleet(server.url, ["kitchen-1"], protocol, settings()) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.CORRUPT] >= 1, CEILING
        )
    assert fleet.summary().by_version == {"1.0.0": 1}
    if protocol is ProtocolMix.JSON:
        assert {"state": "Failed", "code": "checksum"}.items() <= server.reports[-1].items()


@BOTH
async def test_a_failing_device_reports_and_gives_up_after_three_downloads(
    server: DeviceServer, protocol: ProtocolMix
) -> None:
    async with Fleet(server.url, ["kitchen-1"], protocol, settings(failures=100)) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 6, CEILING
        )
        assert fleet.all_run("1.4.0"), "a device that cannot is not waited for"
    assert fleet.summary().by_state == {("1.0.0", DeviceState.FAILED): 1}
    assert fleet.summary().counted[Counted.DOWNLOADS] == 3
    failed = [report for report in server.reports if report["state"] == "Failed"]
    assert len(failed) == (3 if protocol is ProtocolMix.JSON else 0)
    assert all(report["code"] == "flash-write" for report in failed)


async def test_a_reverting_device_reports_the_old_version_again(server: DeviceServer) -> None:
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.JSON, settings(reverts=100)) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.devices[0].state is DeviceState.REVERTED, CEILING
        )
    assert fleet.devices[0].version == "1.0.0"
    assert [report["state"] for report in server.reports][:3] == [
        "Downloading",
        "Downloaded",
        "Installing",
    ]


def state_is(state: DeviceState) -> Any:
    return lambda fleet: all(device.state is state for device in fleet.devices)


@BOTH
async def test_a_bricked_device_is_silent_until_it_is_revived(
    server: DeviceServer, protocol: ProtocolMix
) -> None:
    async with Fleet(server.url, ["kitchen-1"], protocol, settings(bricks=100)) as fleet:
        assert await fleet.wait_until(state_is(DeviceState.BRICKED), CEILING)
        assert fleet.all_run("1.4.0"), "it is not waited for"
        assert fleet.versions() == {}, "it runs nothing"
        assert fleet.summary().by_version == {}
        assert fleet.summary().by_state == {("1.0.0", DeviceState.BRICKED): 1}
        polls = fleet.summary().counted[Counted.POLLS]
        async with Fleet(server.url, ["other"], protocol, settings()) as other:
            assert await other.wait_until(
                lambda fleet: fleet.summary().counted[Counted.POLLS] >= 5, CEILING
            )
        assert fleet.summary().counted[Counted.POLLS] == polls
        server.offering = False
        fleet.revive()
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] > polls, CEILING
        )
        assert fleet.versions() == {"1.0.0": 1}
    if protocol is ProtocolMix.JSON:
        told = [report["state"] for report in server.reports if report["device"] == "kitchen-1"]
        assert told == ["Downloading", "Downloaded", "Installing"]


async def test_a_bricked_device_may_come_back_by_itself(server: DeviceServer) -> None:
    recovering = settings(bricks=100, recovery=0.1)
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.JSON, recovering) as fleet:
        assert await fleet.wait_until(state_is(DeviceState.BRICKED), CEILING)
        server.offering = False
        assert await fleet.wait_until(state_is(DeviceState.REVERTED), CEILING)
        assert fleet.versions() == {"1.0.0": 1}


@pytest.mark.parametrize("harm", ["failures", "reverts", "bricks"])
async def test_only_what_is_harmful_does_harm(server: DeviceServer, harm: str) -> None:
    quick = settings(**{harm: 100}, harmful=frozenset({"1.5.0"}))
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.JSON, quick) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.versions() == {"1.4.0": 1}, CEILING)
        server.version = "1.5.0"
        assert await fleet.wait_until(
            lambda fleet: (
                fleet.versions(["kitchen-1"])["1.4.0"] == 0
                or fleet.devices[0].state in (DeviceState.FAILED, DeviceState.REVERTED)
            ),
            CEILING,
        )
    assert fleet.devices[0].version == "1.4.0"


async def test_native_devices_of_2025_go_back_to_an_older_release(server: DeviceServer) -> None:
    older = settings(version="2.0.0", native_takes=NativeTakes.DIFFERENT)
    async with Fleet(server.url, ["kitchen-1"], ProtocolMix.NATIVE, older) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 5, CEILING
        )
    assert fleet.summary().counted[Counted.DOWNLOADS] == 1, "it compares with what it flashed"


async def test_a_fleet_goes_silent_and_goes_on_as_it_was(server: DeviceServer) -> None:
    fleet = Fleet(server.url, device_ids(4), settings=settings())
    fleet.start()
    with pytest.raises(RuntimeError, match="runs already"):
        fleet.start()
    assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
    await fleet.stop()
    polls = fleet.summary().counted[Counted.POLLS]
    async with Fleet(server.url, ["other"], settings=settings()) as other:
        assert await other.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 5, CEILING
        )
    assert fleet.summary().counted[Counted.POLLS] == polls
    async with fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= polls + 4, CEILING
        )
    assert fleet.summary().counted[Counted.DOWNLOADS] == 4
    assert fleet.versions(["sim-00001", "sim-00002"]) == {"1.4.0": 2}


async def test_a_device_that_polls_seldom_does(server: DeviceServer) -> None:
    server.offering = False
    named = {"sim-00001": Behaviour.SELDOM}
    async with Fleet(server.url, device_ids(2), settings=settings(), behaviours=named) as fleet:
        assert await fleet.wait_until(
            lambda fleet: fleet.summary().counted[Counted.POLLS] >= 20, CEILING
        )
    seldom = sum("device=sim-00001" in head for head in server.heads)
    assert seldom < 10


@BOTH
async def test_a_slow_reader_gets_there(server: DeviceServer, protocol: ProtocolMix) -> None:
    async with Fleet(server.url, ["kitchen-1"], protocol, settings(slow=100)) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)


async def test_a_namespace_is_a_prefix_of_every_request(server: DeviceServer) -> None:
    async with Fleet(server.url, device_ids(2), settings=settings(), namespace="tenant-a") as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
    assert all(
        path.startswith("/t/tenant-a/") or path in ("/artifacts", "leading CRLF")
        for path in server.requests
    )


async def test_a_server_that_is_away_is_counted_and_found_again() -> None:
    port = free_port()
    async with Fleet(f"http://127.0.0.1:{port}", device_ids(2), settings=settings()) as fleet:
        assert await fleet.wait_until(lambda fleet: fleet.summary().unreachable == 2, CEILING)
        assert "cannot be reached" in fleet.last_error
        async with device_server("1.4.0", IMAGE, port):
            assert await fleet.wait_until(lambda fleet: fleet.all_run("1.4.0"), CEILING)
        assert fleet.summary().unreachable == 0


def test_seed_and_id_draw_who_it_is_and_exactly_the_share() -> None:
    def drawn(seed: int, ids: list[str]) -> dict[str, Behaviour]:
        shares = FleetSettings(failures=10, reverts=4, bricks=30, slow=6, seldom=2, seed=seed)
        fleet = Fleet("http://127.0.0.1:1", ids, settings=shares)
        return {device.id: device.behaviour for device in fleet.devices}

    ids = device_ids(50)
    assert drawn(1, ids) == drawn(1, ids[::-1])
    assert drawn(1, ids) != drawn(2, ids)
    kinds = list(drawn(1, ids).values())
    assert {kind: kinds.count(kind) for kind in Behaviour} == {
        Behaviour.NORMAL: 24,
        Behaviour.FAILS: 5,
        Behaviour.REVERTS: 2,
        Behaviour.BRICKS: 15,
        Behaviour.SLOW: 3,
        Behaviour.BREAKS: 0,
        Behaviour.SELDOM: 1,
    }


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:notaport"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidServerUrl, match="http://host:port"):
        Fleet(url, ["kitchen-1"])


def test_shares_over_100_percent_are_refused() -> None:
    with pytest.raises(ValueError, match="100 %"):
        Fleet("http://127.0.0.1:1", ["x"], settings=FleetSettings(failures=60, reverts=60))


async def test_the_command_ends_by_itself_and_prints_json(server: DeviceServer) -> None:
    ended = await otaflux_async(
        *("simulate", "--server", server.url, "--devices", "4", "--interval", "0.1"),
        *("--until-version", "1.4.0", "--duration", "30", "-o", "json"),
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["versions"] == {"1.4.0": 4}
    assert "1.4.0 Updated 4" in ended.stderr or "1.0.0 Idle" in ended.stderr


async def test_the_command_plays_a_release_that_bricks_a_third(server: DeviceServer) -> None:
    ended = await otaflux_async(
        *("simulate", "--server", server.url, "--devices", "10", "--interval", "0.1"),
        *("--bricks", "30%", "--harmful", "1.4.0", "--failures", "10%"),
        *("--until-version", "1.4.0", "--duration", "30", "-o", "json"),
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["versions"] == {"1.4.0": 6, "1.0.0": 1}
    assert {"version": "1.0.0", "state": "Bricked", "devices": 3} in told["states"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--server", "nowhere"], 2, "write http://host:port"),
        (["--server", "http://127.0.0.1:1", "--devices", "10001"], 2, "--many"),
        (["--server", "http://127.0.0.1:1", "--protocol", "ddi"], 2, "native, json or mixed"),
        (["--server", "http://127.0.0.1:1", "--bricks", "130%"], 2, "write 0 to 100"),
        (["--server", "http://127.0.0.1:1", "--bricks", "many"], 2, "write 0 to 100"),
        (["--server", "http://127.0.0.1:1", "--bricks", "60", "--slow", "60"], 2, "exceed 100 %"),
        (["--server", "http://127.0.0.1:1", "--native-takes", "any"], 2, "newer or different"),
        (
            ["--server", "http://127.0.0.1:1", "--duration", "0.5", "--interval", "0.1"],
            1,
            "reached",
        ),
    ],
)
def test_a_wrong_command_says_what_to_do(arguments: list[str], code: int, message: str) -> None:
    ended = otaflux("simulate", *arguments)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
