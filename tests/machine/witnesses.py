"""What must hold of the operator's outcomes in their order: a witness that remembers every look.

It judges by the specs and answers that each look was given, with arithmetic of its own.
"""

from dataclasses import dataclass, field

from otaflux_operator.engine import Observation
from otaflux_operator.engine.outcomes import Waiting
from otaflux_operator.resources import (
    ApprovalEffect,
    FirmwareRollout,
    Gate,
    OnEmpty,
    Phase,
    Ring,
    RingPhase,
)
from otaflux_policy import versions
from otaflux_policy.contract import Downgrade, FailureAction, Policy, Release, State
from otaflux_policy.counts import RingCounts
from otaflux_policy.served import ServedRollout
from tests.machine.operators import Look

FRESH, SKEW = 60, 10
"""How old what servers say may be, and how far ahead their clock, in seconds."""

ENDED = (RingPhase.COMPLETE, RingPhase.SKIPPED)
FINAL = (Phase.COMPLETED, Phase.ABORTED, Phase.ROLLED_BACK, Phase.STALLED, Phase.PAUSED)


@dataclass
class Run:
    """A run as it was seen: `since` is when (monotonic) the success of a ring began to hold.

    `repeats`: it offers a release that completed again, to devices that failed.
    """

    digest: str
    rolling_back: bool
    open: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    since: dict[str, float] = field(default_factory=dict)
    is_complete: bool = False
    aborted: bool = False
    tripped: bool = False
    repeats: bool = False
    token_at_end: str | None = None


class Witness:
    """`saw` raises an AssertionError where an outcome breaks what must hold."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.highest = 0
        self.versions: dict[str, str] = {}
        self.tokens: dict[str, set[str]] = {}
        self.histories: set[int] = set()
        self.lost = 0
        self.allowed: set[str] = set()
        self.opened = 0
        self.completions = 0
        self.jumped = 0.0
        self.offset: float | None = None

    def saw(self, look: Look) -> None:
        """Judges one look."""
        policy, status = look.policy, look.outcome.status
        offset = look.at.timestamp() - look.monotonic
        if self.offset is not None and offset < self.offset:
            self.jumped = look.monotonic
        self.offset = offset
        assert policy.run == status.run
        assert policy.run >= self.highest, "a run came back"
        self._tokens(look)
        candidate = status.candidate
        if candidate is not None and look.rollout.spec.downgrade is Downgrade.ALLOW:
            self.allowed.add(candidate.digest)
        if policy.target is not None and policy.run not in self.runs:
            self._begins(look, policy.target)
        self.highest = policy.run
        run = self.runs.get(policy.run)
        if run is not None:
            assert policy.target is not None
            assert policy.target.digest == run.digest, "a run has one release"
            back = policy.rolling_back or policy.state is State.ABORTED
            assert back if run.rolling_back else not policy.rolling_back, "a way back is a run"
            if not run.rolling_back:
                self._trips(look, run)
                self._completes(look, run)
                self._opens(look, run)
            self._aborts(look, run)
        self._history(look)
        self._waits(look)

    def forget_status(self) -> None:
        """The status was lost, and with it the history."""
        self.histories, self.lost = set(), self.highest

    # Runs

    def _begins(self, look: Look, target: Release) -> None:
        policy, spec = look.policy, look.rollout.spec
        assert policy.run > self.highest, "a run's number was used before"
        run = self.runs[policy.run] = Run(target.digest, policy.rolling_back)
        before = self.runs.get(self.highest)
        if before is not None and before.token_at_end is None:
            before.token_at_end = spec.retry_token
        assert spec.state is State.ACTIVE, f"a run begins although {spec.state}"
        said = _heard(look)
        if policy.rolling_back:
            assert policy.stable is not None
            assert policy.stable.digest != target.digest
            assert not any(ring.open for ring in policy.rings)
            return
        assert said is not None, "a run begins unheard"
        run.repeats = before is not None and before.is_complete and before.digest == target.digest
        if run.repeats:
            run.is_complete = True
            return
        assert said.stored(target.firmware.digest), "a release that is not stored"
        if policy.stable is not None:
            assert said.stored(policy.stable.firmware.digest), "stable is not stored"
            older = versions.compare(target.version, policy.stable.version) == -1
            allowed = spec.downgrade is Downgrade.ALLOW or target.digest in self.allowed
            assert allowed or not older, "an older release"
        taken = self.versions.setdefault(target.version, target.digest)
        assert taken == target.digest, "a version with other content"
        if (failed := self._failed_before(look, target.digest)) is not None:
            end = self.runs[failed].token_at_end
            changed = self.tokens.get(target.digest, set()) - {end}
            assert changed, "a release that failed before, without a retry"
        self.tokens[target.digest] = set()
        self.allowed.discard(target.digest)
        status = look.outcome.status
        ended = [ring.name for ring in status.rings if ring.phase in ENDED]
        assert not ended, "rings of a new run have ended"
        assert status.trip is None, "a new run inherits a trip"
        run.since = {}

    def _failed_before(self, look: Look, digest: str) -> int | None:
        """The latest run of this content, if it was aborted or taken back."""
        latest = [number for number, run in self.runs.items() if run.digest == digest]
        latest = [number for number in latest if number != look.policy.run]
        if not latest:
            return None
        run = self.runs[max(latest)]
        taken_back = run.rolling_back
        return max(latest) if taken_back or (run.aborted and not run.is_complete) else None

    def _tokens(self, look: Look) -> None:
        for run in self.runs.values():
            if run.token_at_end is not None or run.aborted or run.rolling_back:
                run.token_at_end = run.token_at_end or ""
                self.tokens.setdefault(run.digest, set()).add(look.rollout.spec.retry_token)

    # Rings

    def _trips(self, look: Look, run: Run) -> None:
        policy, status = look.policy, look.outcome.status
        if run.tripped:
            assert status.trip is not None, "a trip was forgotten"
            assert policy.tripped, "the policy forgets a trip"
        said = look.observation.answer.said
        if status.trip is not None and not run.tripped:
            published = look.observation.published
            was = published is not None and published.tripped and published.run == policy.run
            told = said is not None and said.trip is not None and said.trip.run == policy.run
            assert was or told or self._fails(look), "a trip of nothing"
        if status.trip is not None:
            run.tripped = True
            assert policy.tripped, "the policy does not say that the breaker is open"
        said = _heard(look)
        ended = run.is_complete or run.aborted
        if said is not None and said.trip is not None and said.trip.run == policy.run and not ended:
            # What was decided with the trip in sight.
            assert status.trip is not None, "the servers' trip is not recorded"

    def _completes(self, look: Look, run: Run) -> None:
        spec, status, observation = look.rollout.spec, look.outcome.status, look.observation
        phases = {ring.name: ring for ring in status.rings}
        for ring in spec.rings:
            known = phases.get(ring.name)
            met = self._met(look, ring)
            if met is False or known is None or known.opened_at is None:
                run.since.pop(ring.name, None)
            elif met is True:
                run.since.setdefault(ring.name, look.monotonic)
            if known is None or known.phase not in ENDED or ring.name in run.completed:
                continue
            if run.is_complete:
                continue
            assert spec.state is State.ACTIVE, "a ring ends while nothing may move"
            assert not run.tripped, "a ring ends although the breaker is open"
            assert not run.aborted, "a ring ends although the run was aborted"
            if known.phase is RingPhase.SKIPPED:
                counts = self._counts(look, ring)
                assert ring.on_empty is OnEmpty.SKIP, "skipped unasked"
                assert counts is not None, "skipped unheard"
                assert counts.members == 0, "skipped although it has devices"
            elif _asks_for_nothing(ring):
                assert _is_served_open(observation, look, ring), "complete before it was served"
            else:
                assert met is True, "complete without success"
                held = look.monotonic - run.since[ring.name]
                assert held >= ring.soak.seconds - 1, f"soaked for {held} s only"
            run.completed.add(ring.name)
            self.completions += 1
        release, stable = status.release, status.stable_release
        if release is not None and stable is not None and release.digest == stable.digest:
            if not run.is_complete:
                missing = {ring.name for ring in spec.rings} - run.completed
                assert not missing, f"complete without {missing}"
            run.is_complete = True

    def _opens(self, look: Look, run: Run) -> None:
        spec, policy = look.rollout.spec, look.policy
        names = {ring.name for ring in policy.rings}
        open_ = {ring.name for ring in policy.rings if ring.open}
        assert run.open & names <= open_, "an open ring closed"
        before: list[str] = []
        for ring in spec.rings:
            if ring.name in open_ - run.open and not run.is_complete:
                self.opened += 1
                override = _approved(look.rollout, policy, ring, ApprovalEffect.OVERRIDE)
                reached = all(name in run.completed for name in before)
                assert override or reached, f"{ring.name} opens before its turn"
                consent = _approved(look.rollout, policy, ring, ApprovalEffect.GATE)
                assert override or consent or ring.gate is Gate.AUTOMATIC, "opens unapproved"
                assert spec.state is State.ACTIVE, "a ring opens while nothing may move"
                assert not run.tripped, "a ring opens although the breaker is open"
                assert not run.aborted, "a ring opens although the run was aborted"
            before.append(ring.name)
        run.open |= open_

    def _aborts(self, look: Look, run: Run) -> None:
        if look.rollout.spec.state is State.ABORTED:
            assert look.policy.state is State.ABORTED, "an abort is not published"
            run.aborted = run.aborted or not run.is_complete
        if look.rollout.spec.state is State.PAUSED:
            assert look.policy.state is not State.ACTIVE, "a pause is not published"
        if run.aborted:
            assert look.policy.state is State.ABORTED, "an aborted run is revived"

    # What is told

    def _history(self, look: Look) -> None:
        entries = look.outcome.status.history
        numbers = [entry.run for entry in entries]
        assert len(set(numbers)) == len(numbers), f"told twice: {numbers}"
        assert numbers == sorted(numbers, reverse=True), f"out of order: {numbers}"
        assert self.histories <= set(numbers), "an entry is lost"
        for entry in entries:
            run = self.runs.get(entry.run)
            if run is not None:
                assert entry.digest == run.digest
        ended = {
            number
            for number, run in self.runs.items()
            if not (run.rolling_back or run.repeats)
            and (number < look.policy.run or run.is_complete or run.aborted)
        }
        missing = {number for number in ended if number > self.lost} - set(numbers)
        assert not missing, f"the end of {missing} is not told"
        for number in set(numbers) & set(self.runs):
            if number == look.policy.run and not self.runs[number].rolling_back:
                run = self.runs[number]
                assert run.is_complete or run.aborted, "told as ended while it goes on"
        if look.status_written:
            self.histories = set(numbers)

    def _waits(self, look: Look) -> None:
        outcome = look.outcome
        if outcome.status.phase not in FINAL and outcome.wake_at is None:
            assert outcome.waiting - {Waiting.NOTHING}, f"{outcome.status.phase} waits for nothing"

    def settled(self, look: Look) -> None:
        """What holds besides, once operator and servers have heard of each other."""
        spec, policy, status = look.rollout.spec, look.policy, look.outcome.status
        said = look.observation.answer.said
        assert said is not None
        assert said.revision == policy.revision
        run = self.runs.get(policy.run)
        if run is None or run.rolling_back or run.is_complete or run.aborted:
            return
        if spec.state is not State.ACTIVE:
            return
        if run.tripped:
            assert status.trip is not None
            failed = next((ring for ring in spec.rings if ring.name == status.trip.ring), None)
            if failed is not None and failed.failure.action is FailureAction.ROLLBACK:
                assert policy.stable is None, "a failed ring is not rolled back"
            assert status.phase is Phase.STALLED, f"tripped, and {status.phase}"
            return
        if any(known.type == "Stalled" and known.status == "True" for known in status.conditions):
            return
        for ring in spec.rings:
            if ring.name in run.completed:
                continue
            if ring.name not in run.open:
                gated = ring.gate is Gate.APPROVAL
                consent = _approved(look.rollout, policy, ring, *ApprovalEffect)
                assert gated, f"{ring.name} does not open"
                assert not consent, f"{ring.name} does not open, although approved"
                assert status.phase is Phase.AWAITING_APPROVAL, "nobody is told to approve"
                return
            counts = self._counts(look, ring)
            assert counts is not None
            skipped = ring.on_empty is OnEmpty.SKIP and not counts.members
            assert not skipped, f"{ring.name} is empty and not skipped"
            if self._met(look, ring):
                # Where the clock was set back it may begin anew, no more.
                held = look.monotonic - max(run.since[ring.name], self.jumped)
                assert held < ring.soak.seconds + 30, f"{ring.name} does not complete"
                assert look.outcome.wake_at is not None
            return

    # How it judges

    def _counts(self, look: Look, ring: Ring) -> RingCounts | None:
        """The counts of the ring, where they are recent and of this very run and policy."""
        published, said, policy = look.observation.published, _heard(look), look.policy
        if published is None or said is None or said.counts is None or policy.target is None:
            return None
        counts = said.counts
        if said.revision != published.revision or counts.revision != published.revision:
            return None
        if (counts.run, counts.release) != (policy.run, policy.target.digest):
            return None
        asked = [
            (known.name, known.percent, known.device_selector and known.device_selector.contract())
            for known in look.rollout.spec.rings
        ]
        if asked != [(known.name, known.percent, known.selector) for known in published.rings]:
            return None
        if not -SKEW <= (look.at - counts.at).total_seconds() <= FRESH:
            return None
        return counts.ring(ring.name)

    def _fails(self, look: Look) -> bool:
        """Whether by their counts a ring has too many failures."""
        for ring in look.rollout.spec.rings:
            counts, rule = self._counts(look, ring), ring.failure
            if counts is None:
                continue
            outcomes = counts.failed_outcomes + counts.updated_outcomes
            many = counts.failed_outcomes * 100 > rule.max_percent * outcomes
            if many and outcomes >= rule.min_sample:
                return True
        return False

    def _met(self, look: Look, ring: Ring) -> bool | None:
        """Whether the success condition holds; None where that cannot be told."""
        counts = self._counts(look, ring)
        if counts is None:
            return None
        if not counts.members or counts.succeeded < ring.success.min_devices:
            return False
        if not counts.active and ring.success.min_updated_percent:
            return False
        return counts.succeeded * 100 >= ring.success.min_updated_percent * counts.active


def _asks_for_nothing(ring: Ring) -> bool:
    success = ring.success
    return not (success.min_updated_percent or success.min_devices or ring.soak.seconds)


def _heard(look: Look) -> ServedRollout | None:
    """What servers said lately."""
    answer = look.observation.answer
    if answer.at is None or not -SKEW <= (look.at - answer.at).total_seconds() <= FRESH:
        return None
    return answer.said


def _is_served_open(observation: Observation, look: Look, ring: Ring) -> bool:
    published, said = observation.published, _heard(look)
    if published is None or said is None or said.revision != published.revision:
        return False
    return published.run == look.policy.run and any(
        known.open for known in published.rings if known.name == ring.name
    )


def _approved(
    rollout: FirmwareRollout, policy: Policy, ring: Ring, *effects: ApprovalEffect
) -> bool:
    target = policy.target
    return target is not None and any(
        approval.ring == ring.name
        and approval.effect in effects
        and approval.release in (target.version, target.digest)
        for approval in rollout.spec.approvals
    )
