"""An answer that begins an offer is claimed in the database first, within the ring's limit."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import ReleaseRun, Ring
from otaflux_policy.facts import Facts, ReportedFailure
from otaflux_server.evidence.claims import Claim, Claimed
from otaflux_server.evidence.databases import StoreUnavailable
from otaflux_server.evidence.records import AttemptKey, Batch
from otaflux_server.evidence.stores import Store
from tests.server.fleets import (
    NAMESPACE,
    Served,
    firmware,
    release,
    serving,
    settings,
    version_body,
)

CONTENT = firmware("1.4.0")
BODY = version_body("1.4.0", CONTENT)
TARGET = release("1.4.0", CONTENT)


def limited(most: int | None) -> tuple[Ring, ...]:
    return (Ring(name="all", open=True, max_concurrent=most),)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def database(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_database")


@pytest.fixture
def served(tmp_path: Path, database: str) -> Iterator[Served]:
    options = settings(tmp_path, evidence={"database_url": database, "batch_seconds": 0.05})
    with serving(options) as server:
        yield server


def in_store(served: Served, device: str) -> Facts | None:
    """What the database holds of the device's attempt, whatever waits to be written."""
    store = served.server._store
    key = AttemptKey(NAMESPACE, "thermostat", 1, TARGET.digest, device)

    async def read() -> Facts | None:
        changes = await store.changed(None, 10_000)
        return dict(changes.attempts).get(key)

    return asyncio.run_coroutine_threadsafe(read(), served._loop).result(30)


def test_the_first_offer_is_in_the_database_before_the_device_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        raise StoreUnavailable("behind")

    served.offer("1.4.0", CONTENT)
    monkeypatch.setattr(Store, "merge", never)
    assert served.get("/version?device=a").body == BODY
    facts = in_store(served, "a")
    assert facts is not None
    assert facts.first_offer == served.facts("a").first_offer


def test_no_more_than_the_limit_are_in_flight(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(3))

    async def all_at_once() -> list[bytes]:
        host, port = served.server.device_url.removeprefix("http://").split(":")

        async def ask(device: int) -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /version?device=d%d HTTP/1.0\r\n\r\n" % device)
            answer = await reader.read()
            writer.close()
            return answer

        return await asyncio.gather(*(ask(device) for device in range(40)))

    answers = asyncio.run(all_at_once())
    assert sum(BODY in answer for answer in answers) == 3
    assert sum(b"ConcurrencyLimit" in answer for answer in answers) == 37
    text = served.call(served.server.metrics.text).decode()
    assert 'otaflux_claims_total{result="Granted"} 3.0' in text


def test_an_outcome_gives_the_slot_to_another(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(1))
    assert served.reason("a", "&version=1.3.2") == "Offered"
    assert served.reason("b") == "ConcurrencyLimit"
    assert served.reason("a", "&version=1.4.0") == "UpToDate"
    served.wait(lambda: served.server.recorder.waiting == 0)
    assert served.reason("b") == "Offered"


def put(served: Served, device: str, facts: Facts) -> None:
    """Another server recorded this a moment ago."""
    batch = Batch({AttemptKey(NAMESPACE, "thermostat", 1, TARGET.digest, device): facts})
    merged = served.server._store.merge(batch)
    asyncio.run_coroutine_threadsafe(merged, served._loop).result(30)


def test_what_others_recorded_is_learned_with_the_claim(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(1))
    at = served.server._started_at
    put(served, "a", Facts(failure=ReportedFailure(at, "BadFlash")))
    put(served, "b", Facts(target_first=at, target_last=at))
    assert served.reason("a") == "PreviouslyFailed"
    assert served.reason("b") == "UpToDate"
    assert served.record("b").device.digest == TARGET.digest
    assert served.reason("c") == "Offered"


def test_a_head_claims_nothing(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(1))
    assert served.get("/version?device=a", method="HEAD").status == 200
    assert in_store(served, "a") is None
    assert served.reason("b") == "Offered"


def test_neither_does_one_whose_client_cannot_take_the_release(served: Served) -> None:
    served.offer("1.4.0", b"x" * 9)
    assert served.get("/version?device=a").status == 404
    assert in_store(served, "a") is None


def test_who_comes_straight_for_the_bytes_is_offered_them_by_that(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(1))
    path = f"/artifacts/{TARGET.firmware.digest.replace(':', '/')}?device="
    assert served.get(path + "a").body == CONTENT
    assert served.facts("a").first_offer is not None
    assert served.get(path + "b").status == 404
    assert served.get(path.replace(TARGET.digest[-8:], "0" * 8) + "c").status == 404


def test_the_way_back_is_claimed_too(served: Served) -> None:
    stable = release("1.3.2")
    served.offer("1.4.0", CONTENT)
    for device in "abc":
        served.get(f"/version?device={device}&version=1.3.2")
        served.get(f"/firmware?device={device}")
    gone = ReleaseRun(version="1.4.0", digest=TARGET.digest, run=1)
    served.publish(
        sequence=1,
        run=2,
        target=TARGET,
        stable=stable,
        rings=limited(2),
        rolling_back=True,
        rollback_from=(gone,),
    )
    reasons = [served.reason(device, "&version=1.4.0") for device in "abc"]
    assert reasons == ["RollingBack", "RollingBack", "ConcurrencyLimit"]
    assert served.reason("d", "&version=1.3.2") == "UpToDate"
    assert AttemptRef(2, stable.digest) in served.record("a").attempts["thermostat"]
    assert served.reason("a", "&version=1.3.2") == "UpToDate"
    served.wait(lambda: served.server.recorder.waiting == 0)
    assert served.reason("c", "&version=1.4.0") == "RollingBack"


class Broken:
    """A database that does not answer."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    async def claim(self, *_: Any) -> Claimed:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), TimeoutError()])
@pytest.mark.parametrize("most", [None, 5])
def test_without_the_database_only_rings_without_a_limit_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None, error: Exception
) -> None:
    with serving(settings(tmp_path)) as served:
        served.offer("1.4.0", CONTENT, rings=limited(most))
        broken = Broken(error)
        monkeypatch.setattr(served.server._claimer, "claim", broken.claim)
        reason = served.reason("a", "&version=1.3.2")
        assert reason == ("Offered" if most is None else "ConcurrencyLimit")
        assert served.state("a") is (AttemptState.OFFERED if most is None else None)
        served.reason("b")
        assert broken.asked == 1  # it is left alone for a moment
        monkeypatch.undo()
        served.server.fleet._offers.unavailable_until = 0.0
        assert served.reason("a", "&version=1.3.2") == "Offered"


def test_a_claim_during_which_the_rollout_is_paused_offers_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.offer("1.4.0", CONTENT)
    claim = served.server._claimer.claim
    fleet = served.server.fleet

    async def slow(*asked: Any) -> Claimed:
        claimed = await claim(*asked)
        assert claimed.claim is Claim.GRANTED
        served.server.policies.remove_policy(NAMESPACE, "thermostat")
        return claimed

    monkeypatch.setattr(served.server._claimer, "claim", slow)
    assert served.reason("a") == "NoMatch"
    served.wait(lambda: not fleet._learning.offered)
    assert served.facts("a").offer_ended is not None


def test_the_json_protocol_claims_as_well(served: Served) -> None:
    served.offer("1.4.0", CONTENT, rings=limited(1))
    reasons = []
    for device in "aab":
        answer = served.post("/api/v1/poll", json.dumps({"device": device}).encode())
        reasons.append(json.loads(answer.body)["reason"])
    assert reasons == ["Offered", "Offered", "ConcurrencyLimit"]
