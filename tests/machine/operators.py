"""The operator over one rollout, with the servers' answers as they come: late, old or never."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from otaflux_operator.engine import Answer, Observation, Outcome, Resolution, advance
from otaflux_operator.resources import FirmwareRollout
from otaflux_operator.resources.statuses import MESSAGE_LENGTH
from otaflux_policy.contract import Policy
from tests.machine.servers import Server
from tests.operator.worlds import REPOSITORY, World, found


@dataclass(frozen=True)
class Look:
    """One reconciliation: what it began with, what it came to, and when.

    `monotonic` is in seconds and never jumps. `status_written`: False where the operator stopped
    before.
    """

    rollout: FirmwareRollout
    observation: Observation
    outcome: Outcome
    policy: Policy
    at: datetime
    monotonic: float
    status_written: bool = True


class Operator(World):
    """A `World` whose servers are a `Server`; every outcome is told to `watcher`."""

    def __init__(self, watcher: Callable[[Look], None], **spec: Any) -> None:
        super().__init__(historyLimit=50, **spec)
        self.watcher = watcher
        self.monotonic = 0.0
        self.server = Server(lambda: self.now)
        self.registry: dict[str, str] = {}
        self.answers: list[Answer] = []
        self.last: Look | None = None

    @property
    def observation(self) -> Observation:
        return Observation(
            resolution=self.resolution,
            published=self.published,
            mine=self.owner == self.manifest["metadata"]["uid"],
            answer=self.answer,
        )

    def passes(self, seconds: float) -> None:
        """Time passes; answers grow old."""
        self.now += timedelta(seconds=seconds)
        self.monotonic += seconds
        self.server.recount()

    def jumps_back(self, seconds: float) -> None:
        """The clock is set back; no time passes."""
        self.now -= timedelta(seconds=seconds)

    def push(self, tag: str, content: str) -> None:
        """The tag has this content from now on; it is seen when the tag is resolved."""
        self.registry[tag] = content
        self.resolve()

    def resolve(self) -> None:
        """The registry is asked."""
        tag = self.manifest["spec"]["artifact"]["tag"]
        self.resolves(found(tag, content=self.registry.get(tag, tag)))

    def wants(self, tag: str) -> None:
        """A person writes another tag."""
        self.spec(artifact={"repository": REPOSITORY, "tag": tag})
        self.resolve()

    def restarts(self) -> None:
        """All that was only remembered is gone."""
        self.resolution, self.answer = Resolution(), Answer()

    def look(self, *, stops: bool = False, waits: bool = True) -> Outcome:
        """One reconciliation; `stops`: between the write of the policy and that of the status.

        `waits`: time passes next, so that `wake_at` matters.
        """
        rollout, observation, status = self.rollout, self.observation, self.manifest["status"]
        before = self.published
        try:
            outcome = super().look()
        except AssertionError as error:
            again = replace(observation, published=before)
            raise AssertionError(f"{error}: {self._unstable(rollout, again)}") from error
        if stops:
            self.manifest["status"] = status
        look = Look(rollout, observation, outcome, self.policy, self.now, self.monotonic, not stops)
        self.last = look
        self.watcher(look)
        assert 0 < len(outcome.status.message) <= MESSAGE_LENGTH
        if waits:
            self._check_waking(look)
        return outcome

    def serve(self, *, stored: bool = True, failed: str = "", counted: bool = True) -> None:
        """The servers read what is published, and answer; not `counted`: they count as yet."""
        self.server.read(self.policy, stores=stored and not failed)
        self.answer = Answer(self.server.answer(counted=counted), self.now)
        self.answers = [*self.answers[-9:], self.answer]

    def settle(self, *, late: int = 0) -> None:
        """Looks and serves until nothing but time changes, and looks once more.

        The first `late` answers come from servers that have stored and counted nothing new yet.
        """
        for place in range(20):
            before = self.writes, self._told()
            self.look(waits=False)
            self.serve(stored=place >= late, counted=place >= late)
            if place >= late and before == (self.writes, self._told()):
                self.look()
                if before == (self.writes, self._told()):
                    return
            self.passes(1)
        raise AssertionError("it never settles")

    def _told(self) -> Mapping[str, Any]:
        return told(self.manifest["status"])

    def _check_waking(self, look: Look) -> None:
        """Before `wake_at`, time alone changes nothing."""
        outcome, now = look.outcome, self.now
        rollout = self._with(look.rollout, outcome)
        observation = look.observation
        if outcome.policy is not None:
            observation = Observation(
                resolution=observation.resolution,
                published=outcome.policy,
                mine=True,
                answer=observation.answer,
            )
        here = advance(rollout, observation, now, epoch=1)
        moves = told(here.status.manifest()) != told(outcome.status.manifest())
        if moves or here.policy is not None:
            return
        rollout = self._with(rollout, here)
        ends = here.wake_at if here.wake_at is not None else now + timedelta(days=40)
        if ends - now < timedelta(seconds=2):
            return
        # Somewhere between, and just before: nothing has happened yet.
        for later in (now + (ends - now) / 2, ends - timedelta(seconds=1)):
            after = advance(rollout, observation, later, epoch=1)
            changed = _differences(told(here.status.manifest()), told(after.status.manifest()))
            assert not changed, f"it changes at {later}, before {ends}: {changed}"
            assert after.policy is None or here.policy is not None

    def _unstable(self, rollout: FirmwareRollout, observation: Observation) -> list[str]:
        first = advance(rollout, observation, self.now, epoch=1)
        second = advance(self._with(rollout, first), observation, self.now, epoch=1)
        return _differences(first.status.manifest(), second.status.manifest())

    @staticmethod
    def _with(rollout: FirmwareRollout, outcome: Outcome) -> FirmwareRollout:
        return rollout.model_copy(update={"status": outcome.status})


def told(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a status may not change by itself; messages tell how much time is left."""
    without = {name: value for name, value in status.items() if name != "message"}
    without["conditions"] = [
        {key: condition[key] for key in ("type", "status", "reason")}
        for condition in status.get("conditions", ())
    ]
    return without


def _differences(before: Any, after: Any, where: str = "") -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            found
            for key in sorted({*before, *after})
            for found in _differences(before.get(key), after.get(key), f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            found
            for place, (old, new) in enumerate(zip(before, after, strict=True))
            for found in _differences(old, new, f"{where}[{place}]")
        ]
    return [] if before == after else [f"{where}: {before} → {after}"]
