"""`/firmware` gives what `/version` told, from any server and after a restart, until withdrawn."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.contract import Compatibility, Ring, State
from tests.server.fleets import NAMESPACE, Served, firmware, policy, release, serving, settings

CONTENT = firmware("1.4.0")
TARGET = release("1.4.0", CONTENT)


def offered(served: Served, sequence: int = 1, **fields: Any) -> None:
    served.source.add(CONTENT)
    served.apply(policy(sequence=sequence, target=TARGET, **fields))
    served.stored(TARGET)


def told(served: Served, said: str = "") -> None:
    assert served.get(f"/version?device=a{said}").status == 200


def test_a_pin_survives_a_restart(tmp_path: Path) -> None:
    with serving(settings(tmp_path)) as served:
        offered(served)
        told(served)
        assert served.get("/firmware?device=a").status == 200
    with serving(settings(tmp_path)) as served:
        assert served.get("/firmware?device=a").body == CONTENT
        assert served.get("/firmware?device=b").status == 404


def test_so_does_one_of_a_device_that_runs_the_release(tmp_path: Path) -> None:
    with serving(settings(tmp_path)) as served:
        offered(served)
        told(served, "&version=1.4.0")
    with serving(settings(tmp_path)) as served:
        assert served.get("/firmware?device=a").body == CONTENT


def test_a_restart_makes_no_pin_longer(tmp_path: Path) -> None:
    with serving(settings(tmp_path, pin_seconds=0.05)) as served:
        offered(served)
        told(served)
    with serving(settings(tmp_path, pin_seconds=0.05)) as served:
        served.wait(lambda: served.server.fleet._monotonic() > served.record("a").pinned_until)
        assert served.get("/firmware?device=a").status == 404
        told(served)


def abort(served: Served) -> None:
    offered(served, 2, state=State.ABORTED)


def pause(served: Served) -> None:
    offered(served, 2, state=State.PAUSED)


def trip(served: Served) -> None:
    offered(served, 2, tripped=True)


def delete(served: Served) -> None:
    served.remove("thermostat")


def close(served: Served) -> None:
    offered(served, 2, rings=(Ring(name="all"),))


@pytest.mark.parametrize("withdraw", [abort, pause, trip, delete, close])
@pytest.mark.parametrize("restarts", [False, True])
def test_what_withdraws_an_offer_breaks_the_pin_until_the_next_version(
    tmp_path: Path, withdraw: Callable[[Served], None], restarts: bool
) -> None:
    """Though the device asks only when all is well again."""
    with serving(settings(tmp_path)) as served:
        offered(served)
        told(served)
        withdraw(served)
        if restarts:
            served.wait(lambda: not served.server.fleet._learning.offered)
        else:
            offered(served, 3)
            assert served.get("/firmware?device=a").status == 404
            told(served)
            assert served.get("/firmware?device=a").body == CONTENT
            return
    with serving(settings(tmp_path)) as served:
        offered(served, 3)
        assert served.get("/firmware?device=a").status == 404
        told(served)
        assert served.get("/firmware?device=a").body == CONTENT


def test_a_pause_breaks_the_pin_of_a_download_that_began_as_well(tmp_path: Path) -> None:
    with serving(settings(tmp_path)) as served:
        offered(served)
        told(served, "&version=1.3.2")
        served.get("/firmware?device=a", "Range: bytes=0-9")
        pause(served)
        offered(served, 3)
        assert served.get("/firmware?device=a").status == 404
        told(served, "&version=1.3.2")
        assert served.get("/firmware?device=a", "Range: bytes=10-").body == CONTENT[10:]


@pytest.fixture
def pair(tmp_path: Path, postgres_database: str) -> Iterator[tuple[Served, Served]]:
    """Two servers that share a database, and read of each other when asked only."""
    evidence = {"database_url": postgres_database, "refresh_seconds": 3600}
    with (
        serving(settings(tmp_path / "a", evidence=evidence)) as one,
        serving(settings(tmp_path / "b", evidence=evidence)) as two,
    ):
        yield one, two


@pytest.mark.servers
def test_another_server_honours_the_pin_at_once(pair: tuple[Served, Served]) -> None:
    one, two = pair
    for served in pair:
        offered(served, compatibility=Compatibility(models=("m",)))
    told(one, "&model=m")
    assert two.get("/firmware?device=a").body == CONTENT
    assert two.facts("a").downloads
    assert two.get("/firmware?device=b").status == 404
    claims = two.call(two.server.metrics.text).decode()
    assert 'result="Granted"' not in claims


@pytest.mark.servers
def test_what_one_server_records_the_other_decides_by(
    tmp_path: Path, postgres_database: str
) -> None:
    evidence = {
        "database_url": postgres_database,
        "refresh_seconds": 0.05,
        "batch_seconds": 0.05,
    }
    with (
        serving(settings(tmp_path / "a", evidence=evidence)) as one,
        serving(settings(tmp_path / "b", evidence=evidence)) as two,
    ):
        for served in (one, two):
            offered(served)
        told(one, "&version=1.3.2")
        one.report("a", "1.4.0", "Failed", code="X")

        def failed() -> bool:
            record = two.server.devices.get(NAMESPACE, "a")
            attempts = {} if record is None else record.attempts.get("thermostat", {})
            return any(facts.failure is not None for facts in attempts.values())

        two.wait(failed)
        assert two.reason("a", "&version=1.3.2") == "PreviouslyFailed"


def test_what_is_told_after_a_breaker_opened_holds(tmp_path: Path) -> None:
    """Devices below the stable release still get that, whatever changes elsewhere."""
    stable = release("1.3.2")
    with serving(settings(tmp_path)) as served:
        served.publish(sequence=1, target=TARGET, stable=stable, tripped=True)
        told(served, "&version=1.0.0")
        served.apply(policy(name="other", priority=-1))
        assert served.get("/firmware?device=a").body == firmware("1.3.2")
