"""The operator is killed after each of its writes, and goes on as if it had not been."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from operator import eq
from typing import Any

import pytest

from otaflux_operator.operating import Operator
from otaflux_policy.contract import Policy, Ring
from tests.operator.fakes import CEILING, Cluster, eventually, rollout_key, running
from tests.operator.worlds import REPOSITORY, START, manifest

KEY = rollout_key()
DEVICES = 10
RINGS: list[dict[str, Any]] = [
    {
        "name": name,
        "soak": "10m",
        "failure": {"action": "Rollback"},
        "success": {"minUpdatedPercent": 100},
        **more,
    }
    for name, more in (
        ("canary", {"percent": 10}),
        ("early", {"percent": 50, "gate": "Approval"}),
        ("fleet", {}),
    )
]


class Site(Cluster):
    """A cluster with a clock of its own, and devices that fare in each run as they are told.

    `bricks`: the rings in which every second device fails; `away`: devices that are not back yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at = START
        self.now = lambda: self.at
        self.counts = self.tell
        self.bricks: set[str] = set()
        self.away = 0
        self.killed = asyncio.Event()
        self.fatal: Callable[[int], bool] = lambda _: False
        self.written = self.write
        self.writes: list[str] = []

    def tell(self, policy: Policy) -> Mapping[str, Mapping[str, int]]:
        return {ring.name: self._ring(policy, ring) for ring in policy.rings}

    def _ring(self, policy: Policy, ring: Ring) -> dict[str, int]:
        counts = {"members": DEVICES, "active": DEVICES}
        if policy.rolling_back:
            back = DEVICES - self.away
            return counts | {"restored": back, "updated": back, "downloading": self.away}
        if not ring.open:
            return counts | {"pending": DEVICES}
        failed = DEVICES // 2 if ring.name in self.bricks else 0
        good = DEVICES - failed
        return counts | {
            "succeeded": good,
            "updated": good,
            "failed": failed,
            "updated_outcomes": good,
            "failed_outcomes": failed,
        }

    async def write(self, name: str) -> None:
        """The write is done; whoever did it may not live to know."""
        self.writes.append(name)
        if self.fatal(len(self.writes)):
            self.killed.set()
            await asyncio.Event().wait()

    def passes(self, **time: float) -> None:
        self.at += timedelta(**time)


@dataclass(slots=True)
class Lives:
    """The operator, replaced by another one as soon as it was killed."""

    operator: Operator | None = None
    count: int = 0

    def mark(self) -> None:
        if self.operator is not None:
            self.operator.mark(KEY)


@asynccontextmanager
async def lives(site: Site) -> AsyncIterator[Lives]:
    """An operator on the site, whatever happens to it."""
    known = Lives()

    async def live() -> None:
        while True:
            site.killed.clear()
            known.count += 1
            async with running(site, epoch=known.count) as operator:
                known.operator = operator
                await site.killed.wait()

    task = asyncio.create_task(live())
    try:
        yield known
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def play(site: Site) -> None:
    """Three rings with soak and approval; a failure and the way back; again; back by hand."""
    approvals = [{"ring": "early", "release": "1.0.0"}]
    site.put(KEY, manifest(rings=RINGS, approvals=approvals))
    site.tags |= {"1.0.0": "1.0.0", "1.1.0": "1.1.0"}
    async with lives(site) as operator:
        await _soaks(site, operator, 1, ["canary", "early", "fleet"])
        await _phase(site, operator, 1, "Completed")

        site.bricks = {"early"}
        _edit(site, operator, artifact={"repository": REPOSITORY, "tag": "1.1.0"})
        await _soaks(site, operator, 2, ["canary"])
        await _phase(site, operator, 2, "AwaitingApproval")
        site.away = 3
        approvals = [*approvals, {"ring": "early", "release": "1.1.0"}]
        _edit(site, operator, approvals=approvals)
        await _phase(site, operator, 3, "RollingBack")
        await _until(site, operator, lambda known: known["rollback"].get("restored") == 21)
        site.away = 0
        await _phase(site, operator, 3, "RolledBack")

        site.bricks = set()
        _edit(site, operator, retryToken="again")
        await _soaks(site, operator, 4, ["canary", "early", "fleet"])
        await _phase(site, operator, 4, "Completed")

        _edit(site, operator, rollback={"from": "1.1.0", "to": "1.0.0"})
        await _phase(site, operator, 5, "RolledBack")
        await eventually(lambda: site.condition(KEY, "PolicyServed")["status"] == "True")


def _edit(site: Site, operator: Lives, **spec: Any) -> None:
    site.edit(KEY, **spec)
    operator.mark()


async def _until(site: Site, operator: Lives, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for a status, in a time that passes quickly."""
    async with asyncio.timeout(CEILING):
        for turn in count(1):
            if holds(site.status(KEY)):
                return
            await asyncio.sleep(0.001)
            if not turn % 10:
                site.passes(seconds=1)
                operator.mark()


async def _phase(site: Site, operator: Lives, run: int, phase: str) -> None:
    def holds(status: dict[str, Any]) -> bool:
        return (status.get("run"), status.get("phase")) == (run, phase)

    try:
        await _until(site, operator, holds)
    except TimeoutError:
        raise AssertionError(f"never {phase} in run {run}: {site.status(KEY)}") from None


async def _soaks(site: Site, operator: Lives, run: int, rings: list[str]) -> None:
    """One ring after the other soaks; only time lets it go on."""
    for name in rings:

        def ring(status: dict[str, Any], name: str = name) -> str:
            known = status.get("rings", ()) if status.get("run") == run else ()
            return next((str(one["phase"]) for one in known if one["name"] == name), "")

        try:
            await _until(site, operator, lambda status: ring(status) == "Soaking")
            site.passes(minutes=11)
            operator.mark()
            await _until(site, operator, lambda status: ring(status) == "Complete")
        except TimeoutError:
            raise AssertionError(f"{name} in run {run}: {site.status(KEY)}") from None


def ending(site: Site) -> dict[str, Any]:
    """What must not depend on who wrote it when; times differ."""
    status, policy = site.status(KEY), site.policy(KEY)
    assert policy is not None
    when = {"startedAt", "finishedAt", "resolvedAt", "openedAt", "satisfiedAt", "completedAt"}

    def plain(known: Any) -> Any:
        if isinstance(known, dict):
            return {name: plain(value) for name, value in known.items() if name not in when}
        return [plain(value) for value in known] if isinstance(known, list) else known

    fields = (
        "phase",
        "message",
        "run",
        "handledRetryToken",
        "release",
        "stableRelease",
        "candidate",
        "rings",
        "trip",
        "rollback",
        "history",
    )
    unwritten = policy.model_copy(update={"epoch": 0, "sequence": 0, "revision": ""})
    conditions = {
        known["type"]: (known["status"], known["reason"]) for known in status["conditions"]
    }
    return {
        "policy": unwritten.model_dump(mode="json"),
        "conditions": conditions,
        **{name: plain(status.get(name)) for name in fields},
    }


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """How the script ends where nothing happens to the operator."""

    async def end() -> dict[str, Any]:
        site = Site()
        await play(site)
        return ending(site)

    return asyncio.run(end())


async def test_the_script_ends_as_it_should() -> None:
    site = Site()
    await play(site)
    end = ending(site)
    told = [(known["run"], known["version"], known["result"]) for known in end["history"]]
    assert told == [
        (5, "1.1.0", "RolledBack"),
        (4, "1.1.0", "Completed"),
        (2, "1.1.0", "RolledBack"),
        (1, "1.0.0", "Completed"),
    ]
    assert (end["phase"], end["run"]) == ("RolledBack", 5)
    assert end["release"]["version"] == "1.1.0"
    assert end["stableRelease"]["version"] == "1.0.0"
    assert end["rollback"]["cause"] == "Hand"
    assert "5 of 10" in end["history"][2]["message"]
    reasons = [notice.reason for notice in site.notices]
    assert reasons.count("RunStarted") == 3
    assert reasons.count("RingCompleted") == 7
    assert reasons.count("RingSoaking") == 7
    assert reasons.count("RingFailed") == 1
    assert reasons.count("RollbackStarted") == 2
    assert reasons.count("RolledBack") == 2
    assert len(reasons) < 45


@pytest.mark.parametrize("part", range(8))
async def test_killed_after_any_one_write_it_ends_the_same(
    undisturbed: dict[str, Any], part: int
) -> None:
    """One life more after each write in turn; the parts share the writes among them."""
    killed = part + 1
    while True:
        site = Site()
        site.fatal = partial(eq, killed)
        await play(site)
        if len(site.writes) < killed:
            break
        assert ending(site) == undisturbed, f"killed after write {killed}"
        killed += 8
    assert killed > 40


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_killed_again_and_again_it_ends_the_same(
    undisturbed: dict[str, Any], every: int
) -> None:
    site = Site()
    site.fatal = lambda write: write % every == 0
    await play(site)
    assert ending(site) == undisturbed


@pytest.mark.parametrize("name", ["publish", "write_status"])
async def test_killed_after_each_write_of_a_kind_it_ends_the_same(
    undisturbed: dict[str, Any], name: str
) -> None:
    site = Site()
    site.fatal = lambda write: site.writes[write - 1] == name
    await play(site)
    assert ending(site) == undisturbed
