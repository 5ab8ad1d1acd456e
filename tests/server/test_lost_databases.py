"""The database is lost, full, late or behind: devices are answered, and nothing is forgotten."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.attempts import AttemptState
from otaflux_policy.contract import Ring
from otaflux_policy.facts import Facts
from otaflux_server.devices import Devices
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import AttemptKey
from otaflux_server.evidence.stores import Store
from tests.fixtures.databases import Postgres
from tests.server.fleets import (
    NAMESPACE,
    Served,
    firmware,
    release,
    serving,
    settings,
    until,
    version_body,
)

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)
TARGET = release("1.4.0", CONTENT)
OLD = "&version=1.3.2"


def limited(most: int) -> tuple[Ring, ...]:
    return (Ring(name="all", open=True, max_concurrent=most),)


def stored(url: str) -> dict[str, Facts]:
    """What the database holds of attempts at the release, by device."""

    async def read() -> dict[AttemptKey, Facts]:
        async with Store(url) as store:
            return dict((await store.changed(None, 10_000)).attempts)

    return {key.device: facts for key, facts in asyncio.run(read()).items()}


# PostgreSQL


@pytest.mark.servers
def test_postgres_stops_and_starts_again(tmp_path: Path, own_postgres: Postgres) -> None:
    url = own_postgres.new_database()
    evidence = {"database_url": url, "batch_seconds": 0.05, "contact_seconds": 0}
    with serving(settings(tmp_path, evidence=evidence)) as served:
        served.offer("1.4.0", CONTENT)
        assert served.reason("a", OLD) == "Offered"
        own_postgres.stop()
        assert served.get("/firmware?device=a").body == CONTENT
        assert served.reason("b", OLD) == "Offered"
        served.report("b", "1.4.0", "Failed", code="X")
        assert served.reason("b", OLD) == "PreviouslyFailed"
        served.publish(sequence=1, target=TARGET, rings=limited(50))
        assert served.reason("c", OLD) == "ConcurrencyLimit"
        served.wait(lambda: served.server.evidence_state().failure != "")
        state = served.call(served.server.evidence_state)
        assert state.waiting > 0
        assert url not in state.failure
        own_postgres.start()
        served.wait(lambda: served.server.evidence_state().failure == "")
        served.wait(lambda: served.server.recorder.waiting == 0)
        served.wait(lambda: served.server.fleet._monotonic() > unavailable_until(served))
        assert served.reason("c", OLD) == "Offered"
        assert stored(url)["b"].failure is not None
        assert stored(url)["a"].downloads == served.facts("a").downloads


def unavailable_until(served: Served) -> float:
    return served.server.fleet._offers.unavailable_until


@pytest.mark.servers
def test_until_the_database_was_read_every_device_is_held(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    url = own_postgres.new_database()
    options = settings(tmp_path, evidence={"database_url": url})
    with serving(options) as served:
        served.offer("1.4.0", CONTENT)
        assert served.reason("a", OLD) == "Offered"
        served.report("a", "1.4.0", "Failed", code="X")
    own_postgres.stop()
    with serving(options) as served:
        for device in "ab":
            assert served.reason(device, OLD) == "Hold"
            assert served.get(f"/firmware?device={device}").status == 404
        assert not served.call(served.server.evidence_state).loaded
        assert served.call(lambda: served.server.counting.counts(NAMESPACE, "thermostat")) is None
        own_postgres.start()
        served.wait(lambda: served.server.evidence_state().loaded)
        assert served.reason("a", OLD) == "PreviouslyFailed"
        assert served.reason("b", OLD) == "Offered"


# SQLite, in a process of its own


class Process:
    """`otaflux-server` with the last known policies of a data directory."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "otaflux_server.main"],
            env=os.environ
            | {
                "OTAFLUX_DATA_DIR": str(data_dir),
                "OTAFLUX_IDENTITY__KIND": "Open",
                "OTAFLUX_LISTEN": "127.0.0.1:0",
                "OTAFLUX_INTERNAL_LISTEN": "127.0.0.1:0",
                "OTAFLUX_INTERNAL__AUTHENTICATION": "None",
                "OTAFLUX_DEFAULT_NAMESPACE": NAMESPACE,
                "OTAFLUX_KUBECONFIG": str(data_dir / "none"),
                "OTAFLUX_LOG_FORMAT": "json",
                "OTAFLUX_LOG_LEVEL": "info",
            }
            | environment,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                self.devices, self.internal = event["devices"], event["internal"]
                return
        raise AssertionError("it ended")

    @property
    def pid(self) -> int:
        return self._process.pid

    def get(self, path: str, *, internal: bool = False) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(
                (self.internal if internal else self.devices) + path, timeout=30
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def evidence(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.get("/readyz?verbose", internal=True)[1])
        found: dict[str, Any] = content["detail"]["evidence"]
        return found

    def metric(self, name: str) -> float:
        text = self.get("/metrics", internal=True)[1].decode()
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        return float(line.split()[1])

    def wait(self, condition: Callable[[], bool]) -> None:
        asyncio.run(until(condition))

    def end(self, how: signal.Signals) -> None:
        stderr = self._process.stderr
        if stderr is None or stderr.closed:
            return
        self._process.send_signal(how)
        stderr.read()
        self._process.wait(30)
        stderr.close()


@contextmanager
def process(data_dir: Path, **environment: str) -> Iterator[Process]:
    running = Process(data_dir, **environment)
    try:
        yield running
    finally:
        running.end(signal.SIGKILL)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With a policy, and its artifact."""
    with serving(settings(tmp_path)) as served:
        served.offer("1.4.0", CONTENT)
    return tmp_path


def test_a_full_disk_keeps_facts_waiting_and_nobody_else(data_dir: Path) -> None:
    quick = {"OTAFLUX_EVIDENCE__BATCH_SECONDS": "0.05"}
    with process(data_dir, **quick) as server:
        assert server.get(f"/version?device=a{OLD}") == (200, BODY)
        server.wait(lambda: server.evidence()["waiting"] == 0)
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        assert server.get("/firmware?device=a") == (200, CONTENT)
        for device in range(20):
            assert server.get(f"/version?device=d{device}{OLD}") == (200, BODY)
        server.wait(lambda: server.evidence()["failure"] != "")
        assert server.get("/readyz", internal=True)[0] == 200
        assert server.evidence()["waiting"] >= 21
        assert server.metric("otaflux_evidence_failing") == 1
        assert server.metric("otaflux_evidence_waiting_rows") >= 21
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        server.wait(lambda: server.evidence()["waiting"] == 0)
        assert server.metric("otaflux_evidence_failing") == 0
        assert server.metric("otaflux_evidence_dropped_rows_total") == 0
    found = stored(f"sqlite:///{data_dir / 'evidence.db'}")
    assert len(found["a"].downloads) == 1
    assert all(found[f"d{device}"].first_offer is not None for device in range(20))


def test_after_kill_9_first_offers_are_there_and_the_next_contact_heals_the_rest(
    data_dir: Path,
) -> None:
    lazy = {"OTAFLUX_EVIDENCE__BATCH_SECONDS": "3600"}
    with process(data_dir, **lazy) as server:
        for device in "abc":
            assert server.get(f"/version?device={device}{OLD}") == (200, BODY)
            assert server.get(f"/firmware?device={device}") == (200, CONTENT)
        server.end(signal.SIGKILL)
    found = stored(f"sqlite:///{data_dir / 'evidence.db'}")
    assert sorted(found) == ["a", "b", "c"]
    assert all(facts.first_offer and not facts.first_byte for facts in found.values())
    with serving(settings(data_dir)) as served:
        served.wait(lambda: bool(served.server.policies.policies()))
        assert served.get("/firmware?device=c").body == CONTENT  # the pin came with the offer
        assert served.state("c") is AttemptState.DOWNLOADED
        assert served.reason("a", "&version=1.4.0") == "UpToDate"
        assert served.state("a") is AttemptState.UPDATED
        served.report("b", "1.4.0", "Failed", code="X")
        assert served.reason("b", OLD) == "PreviouslyFailed"


# More devices than memory has room for


def test_a_device_that_left_memory_is_read_again(tmp_path: Path) -> None:
    with serving(settings(tmp_path, max_devices=2)) as served:
        served.offer("1.4.0", CONTENT)
        assert served.reason("a", OLD) == "Offered"
        served.report("a", "1.4.0", "Failed", code="X")
        for device in "bcdef":
            served.get(f"/version?device={device}{OLD}")
        assert served.call(lambda: served.server.devices.get(NAMESPACE, "a")) is None
        assert served.reason("a", OLD) == "PreviouslyFailed"
        for device in "bcdef":
            served.get(f"/version?device={device}{OLD}")
        served.wait(lambda: not served.server.fleet._left)  # written by now
        assert served.reason("a", OLD) == "PreviouslyFailed"
        assert served.record("a").reports
        assert served.call(lambda: len(served.server.devices)) == 2
    with serving(settings(tmp_path, max_devices=2)) as served:
        assert served.reason("a", OLD) == "PreviouslyFailed"
        served.get("/version?device=new")
        assert served.reason("f", OLD) == "Offered"


def test_what_a_device_says_when_it_is_back_counts_over_what_it_said_before(
    tmp_path: Path,
) -> None:
    never = {"batch_seconds": 3600}
    with serving(settings(tmp_path, max_devices=1, evidence=never)) as served:
        served.offer("1.4.0", CONTENT)
        assert served.reason("a", OLD) == "Offered"
        served.report("a", "1.4.0", "Failed", code="X")
        served.get("/version?device=b")
        served.report("a", "1.4.0", "Updated")
        assert served.state("a") is AttemptState.UPDATED
        assert served.reason("b", OLD) == "Offered"
        assert served.reason("a", "&version=1.4.0") == "UpToDate"
        assert served.reason("b", "&version=2.0.0") == "DowngradeForbidden"
        assert served.reason("a") == "UpToDate"
        assert served.record("a").device.version is None


def test_a_download_outlasts_that_its_device_left_memory_meanwhile(tmp_path: Path) -> None:
    large = firmware("1.4.0", 32 << 20)
    with serving(settings(tmp_path, max_devices=1)) as served:
        served.offer("1.4.0", large)
        served.get("/version?device=a")
        with served.connect() as connection:
            connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000)
            served.get("/version?device=b")
            served.wait(lambda: not served.server.fleet._left)
            assert served.reason("a") == "Offered"
            while connection.recv(1 << 20):
                pass
        served.wait(lambda: len(served.server.fleet.deliveries) == 0)
        assert served.state("a") is AttemptState.DOWNLOADED


def test_a_device_that_other_servers_tell_of_is_read_where_it_had_left_memory() -> None:
    devices = Devices(1)
    assert not devices.seen(NAMESPACE, "a", "native", 1.0).unread
    devices.forget(devices.seen(NAMESPACE, "b", "native", 2.0))
    back = devices.take_up(NAMESPACE, "a", 3.0)
    assert back is not None
    assert back.unread


def test_where_it_cannot_be_read_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        raise StoreUnavailable("gone")

    with serving(settings(tmp_path, max_devices=1)) as served:
        served.offer("1.4.0", CONTENT)
        assert served.reason("a", OLD) == "Offered"
        served.report("a", "1.4.0", "Failed", code="X")
        served.get("/version?device=b")
        served.wait(lambda: not served.server.fleet._left)
        monkeypatch.setattr(Store, "device", never)
        assert served.reason("a", OLD) == "Hold"
        monkeypatch.undo()
        served.server.fleet._offers.unavailable_until = 0.0
        assert served.reason("a", OLD) == "PreviouslyFailed"


def test_the_buffer_is_bounded_and_says_what_it_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        raise StoreUnavailable("gone")

    with serving(settings(tmp_path, evidence={"buffer_rows": 5})) as served:
        served.offer("1.4.0", CONTENT)
        monkeypatch.setattr(Store, "merge", never)
        monkeypatch.setattr(Store, "claim_all", never)
        for device in range(20):
            assert served.get(f"/version?device=d{device}{OLD}").body == BODY
        state = served.call(served.server.evidence_state)
        assert state.waiting <= 10
        assert state.dropped > 0
