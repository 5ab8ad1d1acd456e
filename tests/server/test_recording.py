"""What devices do becomes facts: of the right attempt, once, in memory and in the database."""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.canonical import dumps
from otaflux_policy.contract import ReleaseRun, Ring
from otaflux_policy.facts import Facts
from otaflux_server.evidence.records import (
    AttemptKey,
    DeviceKey,
    RunKey,
    StoredAttempt,
)
from otaflux_server.evidence.stores import Store
from tests.server.attempting import CLOSED, CONTENT, NEW, OLD, QUICK, TARGET, poll, ranges, stored
from tests.server.fleets import (
    NAMESPACE,
    Served,
    firmware,
    policy,
    release,
    serving,
    settings,
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(settings(tmp_path, evidence=QUICK)) as server:
        server.offer("1.4.0", CONTENT)
        yield server


def test_an_update_from_poll_to_report(served: Served) -> None:
    served.get(f"/version?device=a{OLD}")
    facts = served.facts("a")
    assert facts.first_offer is not None
    assert facts.first_offer.ring == "all"
    assert facts.last_offer == facts.first_offer.at
    assert (facts.other_first, facts.target_first) == (facts.last_poll, None)
    assert served.state("a") is AttemptState.OFFERED

    assert served.get("/firmware?device=a").body == CONTENT
    facts = served.facts("a")
    assert facts.first_byte == facts.last_request == facts.downloads[0].started
    assert facts.downloads[0].completed >= facts.downloads[0].started
    assert served.state("a") is AttemptState.DOWNLOADED

    assert served.reason("a", NEW) == "UpToDate"
    assert served.state("a") is AttemptState.UPDATED
    record = served.record("a")
    assert record.device.digest == release("1.4.0").digest
    assert served.facts("a").downloads[0].first_poll is not None


def test_all_of_it_is_in_the_database_when_the_server_ends(tmp_path: Path) -> None:
    with serving(settings(tmp_path)) as served:
        target = served.offer("1.4.0", CONTENT)
        served.get(f"/version?device=a{OLD}&model=m")
        served.get("/firmware?device=a")
        served.get(f"/version?device=a{NEW}&model=m")
        known = served.facts("a")
    attempts, devices = stored(tmp_path)
    assert attempts == {AttemptKey(NAMESPACE, "thermostat", 1, target.digest, "a"): known}
    facts = devices[DeviceKey(NAMESPACE, "a")]
    assert facts.said is not None
    assert (facts.said.model, facts.said.version) == ("m", "1.4.0")
    assert facts.reported_first is not None
    assert facts.running is not None
    assert facts.running.digest == target.digest
    assert facts.first_poll is not None


def test_a_device_that_nobody_offers_anything_has_no_attempt(served: Served) -> None:
    assert served.reason("a", NEW) == "UpToDate"
    assert served.facts("a") == Facts()
    assert served.record("a").reports


def test_what_a_device_is_known_to_run_stays_when_it_begins_to_say_so(served: Served) -> None:
    target = release("1.4.0")
    served.apply(policy(target=target, rings=(Ring(name="all"),), sequence=1))
    served.get("/version?device=a")
    record = served.record("a")
    # As it was read from the database: no decision was made for it yet.
    record.device, record.cached = replace(record.device, digest=target.digest), None
    served.get("/version?device=a&version=1.4.0")
    assert record.device.digest == target.digest
    served.get("/version?device=a&version=1.3.0")
    assert record.device.digest is None


def test_one_that_fetches_anew_what_it_runs_is_not_failed_for_it(served: Served) -> None:
    served.get(f"/version?device=a{NEW}")
    for _ in range(4):
        assert served.get("/firmware?device=a").body == CONTENT
    assert served.state("a") is AttemptState.UPDATED


def test_three_downloads_without_success_are_a_failure(served: Served) -> None:
    for _ in range(3):
        served.get(f"/version?device=a{OLD}")
        assert served.get("/firmware?device=a").body == CONTENT
    assert served.reason("a", OLD) == "PreviouslyFailed"
    assert served.get("/firmware?device=a").status == 404


def test_the_old_version_after_an_install_is_a_failure_that_the_target_heals(
    served: Served,
) -> None:
    served.get(f"/version?device=a{OLD}")
    served.get("/firmware?device=a")
    served.report("a", "1.4.0", "Installing")
    assert served.state("a") is AttemptState.INSTALLING
    assert served.reason("a", OLD) == "PreviouslyFailed"
    assert served.reason("a", NEW) == "UpToDate"
    assert served.reason("a", OLD) == "PreviouslyFailed"
    assert served.record("a").device.digest is None


def test_a_client_that_never_reports_counts_by_its_polls(served: Served) -> None:
    served.get("/version?device=a")
    served.get("/firmware?device=a")
    served.get("/version?device=a")
    assert served.state("a") is AttemptState.DOWNLOADED
    served.get("/version?device=a")
    assert served.state("a") is AttemptState.UPDATED
    assert served.record("a").device.digest == release("1.4.0").digest


def test_it_does_not_where_it_fetches_again_in_between(served: Served) -> None:
    served.get("/version?device=a")
    served.get("/firmware?device=a")
    served.get("/version?device=a")
    served.get("/firmware?device=a")
    served.get("/version?device=a")
    assert served.state("a") is AttemptState.DOWNLOADED
    served.get("/version?device=a")
    assert served.state("a") is AttemptState.UPDATED


def test_a_client_that_never_reports_nor_fetches_frees_its_slot(tmp_path: Path) -> None:
    rings = (Ring(name="all", open=True, max_concurrent=1),)
    quick = QUICK | {"scan_seconds": 0, "contact_seconds": 0}
    with serving(settings(tmp_path, evidence=quick)) as served:
        served.offer("1.4.0", CONTENT, rings=rings)
        assert served.reason("a") == "Offered"
        assert served.reason("b") == "ConcurrencyLimit"
        first = served.facts("a").first_offer
        deadline = time.monotonic() + 30
        while served.state("a") is not AttemptState.NOT_REQUESTED:
            served.get("/version?device=a")
            assert time.monotonic() < deadline
        served.wait(lambda: served.server.recorder.waiting == 0)
        assert served.reason("b") == "Offered"
        assert served.facts("a").first_offer == first
        assert served.reason("a") == "ConcurrencyLimit"


@pytest.mark.parametrize("method", ["HEAD"])
def test_a_head_tells_nothing(served: Served, method: str) -> None:
    assert served.get("/version?device=a", method=method).status == 200
    assert served.facts("a") == Facts()
    served.get("/version?device=a")
    offered = served.facts("a")
    assert served.get("/firmware?device=a", method=method).status == 200
    assert served.facts("a") == offered


def test_a_download_in_ranges_is_one_download(served: Served) -> None:
    served.get(f"/version?device=a{OLD}")
    ranges(served, (0, 9_999), (10_000, 29_999), (20_000, 29_999))
    assert served.state("a") is AttemptState.DOWNLOADING
    ranges(served, (30_000, 39_999))
    assert len(served.facts("a").downloads) == 1
    assert served.facts("a").downloads[0].started == served.facts("a").first_byte
    assert served.state("a") is AttemptState.DOWNLOADED
    ranges(served, (0, 39_999))
    assert len(served.facts("a").downloads) == 2


def test_ranges_may_come_in_any_order_but_none_may_be_missing(served: Served) -> None:
    served.get(f"/version?device=a{OLD}")
    ranges(served, (30_000, 39_999), (0, 9_999), (20_000, 29_999), (0, 9_999))
    assert served.facts("a").downloads == ()
    ranges(served, (10_000, 19_999))
    assert len(served.facts("a").downloads) == 1


def test_a_broken_download_that_is_resumed_is_one_download(tmp_path: Path) -> None:
    content = firmware("1.4.0", 16 << 20)
    with serving(settings(tmp_path)) as served:
        served.offer("1.4.0", content)
        served.get(f"/version?device=a{OLD}")
        with served.connect() as connection:
            connection.sendall(b"GET /firmware?device=a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(10_000)
            connection.shutdown(socket.SHUT_RDWR)
        served.wait(lambda: len(served.server.fleet.deliveries) == 0)
        assert served.state("a") is AttemptState.DOWNLOADING
        served.get("/firmware?device=a", "Range: bytes=5000-")
        assert len(served.facts("a").downloads) == 1


def test_reports_in_the_words_of_the_json_protocol(served: Served) -> None:
    poll(served, version="1.3.2")
    for state, expected in (
        ("Downloading", AttemptState.DOWNLOADING),
        ("Downloaded", AttemptState.DOWNLOADED),
        ("Installing", AttemptState.INSTALLING),
    ):
        served.report("a", release("1.4.0").digest, state)
        assert served.state("a") is expected
    served.report("a", "1.4.0", "Downloaded")
    assert len(served.facts("a").downloads) == 1
    served.report("a", "v1.4.0", "Updated")
    assert served.state("a") is AttemptState.UPDATED
    assert served.record("a").device.version == "1.4.0"
    served.report("a", "1.4.0", "Failed", code="BadFlash")
    failure = served.facts("a").failure
    assert failure is not None
    assert failure.code == "BadFlash"
    assert poll(served, version="1.3.2")["reason"] == "PreviouslyFailed"


def test_a_report_of_another_release_is_ignored_and_counted(served: Served) -> None:
    poll(served, version="1.3.2")
    known = served.facts("a")
    served.report("a", "9.9.9", "Updated")
    served.report("a", "sha256:" + "0" * 64, "Failed")
    assert served.facts("a") == known
    assert served.record("a").device.version == "1.3.2"
    text = served.call(served.server.metrics.text).decode()
    assert "otaflux_reports_ignored_total 2.0" in text


def test_a_release_that_is_rolled_back_may_still_be_reported(served: Served) -> None:
    target, stable = release("1.4.0", CONTENT), release("1.3.2")
    poll(served, version="1.3.2")
    served.report("a", "1.4.0", "Downloading")
    gone = ReleaseRun(version="1.4.0", digest=target.digest, run=1)
    served.publish(
        sequence=1, run=2, target=target, stable=stable, rolling_back=True, rollback_from=(gone,)
    )
    served.report("a", "1.4.0", "Failed", code="X")
    assert served.facts("a").failure is not None
    assert poll(served, version="1.4.0")["reason"] == "RollingBack"
    assert served.facts("a", run=2).first_offer is not None
    served.report("a", "1.3.2", "Updated")
    assert served.state("a") is AttemptState.UPDATED
    assert poll(served, version="1.3.2")["reason"] == "UpToDate"


def test_the_stable_release_in_a_closed_ring_has_an_attempt_of_its_own(served: Served) -> None:
    target, stable = release("1.4.0", CONTENT), release("1.3.2")
    served.publish(sequence=1, run=2, target=target, stable=stable, rings=CLOSED)
    assert served.reason("a", "&version=1.0.0") == "RingClosed"
    assert served.get("/firmware?device=a").body == firmware("1.3.2")
    attempts = served.record("a").attempts["thermostat"]
    assert list(attempts) == [AttemptRef(2, stable.digest)]
    served.get("/version?device=a&version=1.3.2")
    assert attempts[AttemptRef(2, stable.digest)].target_first is not None
    assert served.record("a").device.digest == stable.digest


def test_mere_polls_are_written_at_most_so_often(tmp_path: Path) -> None:
    with serving(settings(tmp_path, evidence={"batch_seconds": 0.05})) as served:
        served.offer("1.4.0", CONTENT)
        for _ in range(20):
            served.get(f"/version?device=a{NEW}")
        recorder = served.server.recorder
        served.wait(lambda: recorder.waiting == 0)
        assert served.call(lambda: recorder.counters.written) <= 2


@pytest.mark.parametrize("backwards", [False, True])
def test_what_a_device_runs_is_what_it_ran_last_in_whatever_order_that_is_read(
    served: Served, backwards: bool
) -> None:
    before, now = release("1.3.2"), time.time() - 1000
    gone = ReleaseRun(version="1.4.0", digest=TARGET.digest, run=1)
    served.publish(
        sequence=1,
        run=2,
        target=TARGET,
        stable=before,
        rolling_back=True,
        rollback_from=(gone,),
    )
    served.get("/version?device=a")
    read = [
        (AttemptRef(1, TARGET.digest), datetime.fromtimestamp(now, UTC)),
        (AttemptRef(2, before.digest), datetime.fromtimestamp(now + 100, UTC)),
    ]

    def tell() -> None:
        record, learning = served.record("a"), served.server._learning
        for ref, at in reversed(read) if backwards else read:
            learning.told(record, "thermostat", ref, Facts(target_first=at, target_last=at))

    served.call(tell)
    assert served.record("a").device.digest == before.digest


def test_a_run_that_was_left_out_again_while_it_was_read_is_read_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy that looks back at it may be replaced in the middle of that, and come back."""
    server = served.server
    run = RunKey(NAMESPACE, "thermostat", 1)
    gone = ReleaseRun(version="1.4.0", digest=TARGET.digest, run=1)
    known = StoredAttempt(AttemptKey(*run, TARGET.digest, "z"), Facts(last_poll=server._started_at))
    back = policy(sequence=1, run=3, target=release("1.5.0"), rollback_from=(gone,))
    asked: list[RunKey] = []

    async def attempts(self: Store, run: RunKey, *, page: int) -> AsyncIterator[StoredAttempt]:
        asked.append(run)
        if len(asked) == 1:
            later = policy(sequence=2, run=4, target=release("1.5.0"))
            server.policies.apply_policy(NAMESPACE, "thermostat", dumps(later))
        yield known

    monkeypatch.setattr(Store, "attempts", attempts)
    served.call(lambda: server._learning.left_out.update({run: None}))
    served.apply(back)
    served.wait(lambda: len(asked) == 1)
    served.apply(policy(sequence=3, run=5, target=release("1.5.0"), rollback_from=(gone,)))
    served.wait(lambda: len(asked) == 2)
    served.wait(lambda: AttemptRef(1, TARGET.digest) in served.record("z").attempts["thermostat"])


def test_facts_of_a_past_run_are_read_when_a_policy_looks_back_at_it(tmp_path: Path) -> None:
    first, second = release("1.4.0", CONTENT), release("1.5.0")
    with serving(settings(tmp_path)) as served:
        served.offer("1.4.0", CONTENT)
        served.get("/version?device=a")
        served.get("/firmware?device=a")
        served.publish(sequence=1, run=2, target=second, rings=CLOSED)
    with serving(settings(tmp_path)) as served:
        assert served.record("a").attempts.get("thermostat", {}) == {}
        gone = ReleaseRun(version="1.4.0", digest=first.digest, run=1)
        served.publish(
            sequence=2,
            run=3,
            target=second,
            stable=release("1.3.2"),
            rolling_back=True,
            rollback_from=(gone,),
        )
        served.wait(lambda: bool(served.record("a").attempts.get("thermostat")))
        assert served.reason("a") == "RollingBack"
        assert served.reason("b") == "RingClosed"
