"""An update server without a wire or a database: what devices do at it, what it answers."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta

from otaflux_policy import versions
from otaflux_policy.assessing import Assessment, Spans, assess, deciding, relevant, terms
from otaflux_policy.attempts import IN_FLIGHT, AttemptRef, AttemptState, Evidence
from otaflux_policy.contract import Policy
from otaflux_policy.counts import (
    RolloutCounts,
    Share,
    Tally,
    Trip,
    member_share,
    outcome_share,
    trip,
)
from otaflux_policy.decisions import Decision, Match, judge, match
from otaflux_policy.devices import Device
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_policy.groups import Groups
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.served import ArtifactState, ServedArtifact, ServedRollout
from tests.machine.laws import check_breaker, check_decision, is_open, states
from tests.machine.records import Known, Log

PIN = timedelta(minutes=10)
NOBODY = Assessment()


class Server:
    """Serves one rollout; `clock` tells its time, which may jump."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.policy: Policy | None = None
        self.groups = Groups()
        self.known: dict[str, Known] = {}
        self.stored: set[str] = set()
        self.trips: dict[int, Trip] = {}
        self.highest_run = 0
        self.before: RolloutCounts | None = None
        self.restored_at: datetime | None = None
        self.log: dict[tuple[str, AttemptRef], Log] = {}
        self.reasons: Counter[DecisionReason] = Counter()
        self._shares: dict[str, Share] = {}
        self._tally = Tally()
        self._copy: tuple[dict[str, Known], dict[int, Trip], datetime] | None = None

    # What the operator sees

    def read(self, policy: Policy, *, stores: bool = True) -> None:
        """The published policy is read, and its artifacts are stored (or not yet)."""
        before = self.policy
        if before is not None and policy.revision != before.revision:
            self.before = self.counts()
        if before is None or (policy.epoch, policy.sequence) > (before.epoch, before.sequence):
            self.policy = policy
        assert self.policy is not None
        if stores:
            self.stored |= {release.firmware.digest for release in self.policy.releases}
        fresh = self.policy.run > self.highest_run
        self.highest_run = max(self.highest_run, self.policy.run)
        self.recount()
        if fresh:
            total = self.counts().total
            assert (total.updated_outcomes, total.failed_outcomes) == (0, 0), "inherits outcomes"
            assert total.members - total.updated == total.pending, "inherits evidence"

    def answer(self, *, counted: bool = True) -> ServedRollout:
        """What it tells the operator; not `counted`: by the policy before, as yet."""
        policy = self.policy
        self.recount()
        counts = self.counts() if policy is not None and counted else self.before
        return ServedRollout(
            namespace="home",
            name="thermostat",
            revision=policy.revision if policy is not None else None,
            run=self.highest_run,
            schema_versions=(1,),
            artifacts=tuple(
                ServedArtifact(
                    digest=release.firmware.digest,
                    state=ArtifactState.STORED
                    if release.firmware.digest in self.stored
                    else ArtifactState.FETCHING,
                )
                for release in (policy.releases if policy is not None else ())
            ),
            counts=counts.model_copy(update={"at": self.clock()}) if counts is not None else None,
            trip=self.trips.get(policy.run) if policy is not None else None,
        )

    def counts(self) -> RolloutCounts:
        """Counted as devices change; `check` compares with a count from nothing."""
        assert self.policy is not None
        return self._tally.counts(self.policy, self.clock())

    # What devices do

    def poll(self, name: str, version: str | None, model: str | None) -> Decision:
        """The device asks what to run, and may say what it runs."""
        now = self.clock()
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = Known(Device("home", name), now)
        known.seen = max(known.seen, now)
        known.reports = known.reports or version is not None
        known.device = replace(known.device, model=model or known.device.model)
        if version is not None:
            self._said(known, version)
        decision = self._decide(known)
        self._answered(known, decision)
        self._changed(name)
        return decision

    def fetch(self, name: str, *, whole: bool) -> str | None:
        """The device asks for the firmware it was told of: the manifest digest of what it gets."""
        now, known = self.clock(), self.known[name]
        pinned, at = known.pinned, known.pinned_at
        if pinned is None or at is None or not timedelta(0) <= now - at <= PIN:
            return None
        decision = self._decide(known)
        if decision.release is None or decision.release.digest != pinned:
            known.pinned = None
            self._answered(known, decision, polled=False)
            self._changed(name)
            return None
        self._answered(known, decision, polled=False)
        assert self.policy is not None
        ref = AttemptRef(self.policy.run, pinned)
        done = (Download(now, now),) if whole else ()
        self._join(known, ref, Facts(first_byte=now, last_request=now, downloads=done))
        log = self._log(name, ref)
        log.begun, log.deed = log.begun or now, max(now, log.deed or now)
        log.downloads |= {now} if whole else set()
        self._changed(name)
        return pinned

    def report(self, name: str, state: AttemptState, code: str = "") -> None:
        """The device says how far it is with the release of the run."""
        now, known = self.clock(), self.known[name]
        ref = deciding(self.policy) if self.policy is not None else None
        if ref is None or ref not in known.attempts:
            return
        known.seen = max(known.seen, now)
        log = self._log(name, ref)
        if state is AttemptState.FAILED:
            self._join(known, ref, Facts(failure=ReportedFailure(now, code)))
            log.failed = now if log.failed is None else max(log.failed, now)
        else:
            self._join(known, ref, Facts(install_reported=now))
            log.deed = max(now, log.deed or now)
        self._changed(name)

    def forget(self, name: str) -> None:
        """The device was not seen for so long that it is pruned."""
        self.known.pop(name, None)
        for key in [key for key in self.log if key[0] == name]:
            del self.log[key]
        self._changed(name)

    # Accidents

    def copy(self) -> None:
        """A backup of the evidence is taken."""
        self._copy = (deepcopy(self.known), dict(self.trips), self.clock())

    def restore(self) -> bool:
        """The evidence is restored from that copy."""
        if self._copy is None:
            return False
        self.known, self.trips = deepcopy(self._copy[0]), dict(self._copy[1])
        self.restored_at = self.clock()
        # The copy does not know what happened since: of that nothing can be asked of it.
        self.log = {}
        self.recount()
        return True

    def regroup(self, groups: Groups) -> None:
        """Device groups changed."""
        self.groups = groups
        self.recount()

    # Counting

    def recount(self) -> None:
        """What time and rules alone changed."""
        for name in {*self._shares, *self.known}:
            self._changed(name)

    def in_flight(self, ring: str) -> int:
        """Devices that take a slot of the ring, each looked at by itself."""
        if self.policy is None or (ref := deciding(self.policy)) is None:
            return 0
        count = 0
        for known in self.known.values():
            standing = self._assess(known).standing
            if standing is not None and standing.state in IN_FLIGHT:
                count += known.slots.get(ref) == ring
        return count

    def check(self) -> None:
        """Counts add up, are those of a count from nothing, and agree with what happened."""
        if self.policy is None:
            return
        self.recount()
        fresh = Tally()
        for name in sorted(self.known):
            if (share := self._share(name)) is not None:
                fresh.add(share)
        counts = self.counts()
        assert counts == fresh.counts(self.policy, self.clock()), "counts drift"
        for ring in (*counts.rings, counts.unplaced, counts.total):
            assert states(ring) == ring.members, "states do not add up"
            assert ring.succeeded <= ring.active <= ring.members
            assert ring.succeeded <= ring.updated
            assert sum(ring.codes.values()) == ring.failed
        if self.restored_at is not None:
            heard = sum(known.seen >= self.restored_at for known in self.known.values())
            assert counts.total.succeeded <= heard, "a copy promotes"
            for name, share in self._shares.items():
                known = self.known[name]
                assert known.seen >= self.restored_at or not share.succeeded, "a copy promotes"
        if not self.policy.rolling_back:
            placed = sum(isinstance(self._match(known), Match) for known in self.known.values())
            assert counts.total.members == placed, "members are not those that it has"
            self._check_outcomes(counts)

    def _check_outcomes(self, counts: RolloutCounts) -> None:
        assert self.policy is not None
        if (ref := deciding(self.policy)) is None:
            return
        names = {ring.name for ring in self.policy.rings}
        logs = [log for (_, known), log in self.log.items() if known == ref and log.ring in names]
        for ring in counts.rings:
            of_ring = [log for log in logs if log.ring == ring.name]
            now, timeout = self.clock(), self.policy.device_timeout
            failed = sum(log.has_failed or log.timed_out(now, timeout) for log in of_ring)
            assert ring.failed_outcomes >= failed, "a failure is not counted"

    def _changed(self, name: str) -> None:
        if (before := self._shares.pop(name, None)) is not None:
            self._tally.remove(before)
        share = self._share(name)
        if share is not None:
            self._shares[name] = share
            self._tally.add(share)
        policy = self.policy
        if policy is not None and policy.run not in self.trips:
            counts = self.counts()
            opened = trip(policy, counts, self.clock())
            check_breaker(policy, counts, opened)
            if opened is not None:
                self.trips[policy.run] = opened

    def _share(self, name: str) -> Share | None:
        known = self.known.get(name)
        if known is None or self.policy is None:
            return None
        assessed, matched, now = self._assess(known), self._match(known), self.clock()
        if not isinstance(matched, Match):
            return outcome_share(self.policy, assessed)
        heard = self.restored_at is None or known.seen >= self.restored_at
        return member_share(
            self.policy,
            matched.ring,
            known.device,
            assessed,
            seen=known.seen,
            heard=heard,
            now=now,
        )

    def _assess(self, known: Known) -> Assessment:
        if self.policy is None:
            return NOBODY
        judged_by = terms(self.policy, Spans(), reports=known.reports)
        return assess(self.policy, known.attempts, judged_by, self.clock())

    def _match(self, known: Known) -> Match | DecisionReason:
        assert self.policy is not None
        return match([self.policy], self.groups, known.device)

    # Deciding

    def _decide(self, known: Known) -> Decision:
        policy = self.policy
        if policy is None:
            return Decision(None, None, None, DecisionReason.HOLD)
        attempt = self._assess(known).attempt
        evidence = Evidence(
            stored=self.stored,
            attempts={policy.name: attempt} if attempt is not None else {},
            slots={
                (policy.name, ring.name): ring.max_concurrent - self.in_flight(ring.name)
                for ring in policy.rings
                if ring.max_concurrent is not None
            },
            tripped={policy.name} if policy.run in self.trips else frozenset(),
        )
        decision = judge(self._match(known), known.device, evidence, self.clock())
        self.reasons[decision.reason] += 1
        check_decision(self, known, decision)
        return decision

    def _answered(self, known: Known, decision: Decision, *, polled: bool = True) -> None:
        policy, now = self.policy, self.clock()
        if policy is None:
            return
        release, ref = decision.release, deciding(policy)
        standing = self._assess(known).standing
        state = standing.state if standing is not None else None
        if ref is not None:
            offers = (DecisionReason.OFFERED, DecisionReason.ROLLING_BACK)
            if release is not None and decision.reason in offers and state not in IN_FLIGHT:
                self._claim(known, ref, decision, state)
            elif state is AttemptState.OFFERED and (
                release is None or release.digest != ref.digest
            ):
                self._join(known, ref, Facts(offer_ended=now))
        if polled:
            known.pinned = release.digest if release is not None else None
            known.pinned_at = now
        if release is not None and polled:
            ref = AttemptRef(policy.run, release.digest)
            facts = known.attempts.get(ref)
            if facts is not None:
                told = [
                    Download(done.started, done.completed, now, now)
                    for done in facts.downloads
                    if done.completed < now
                ]
                self._join(known, ref, Facts(last_poll=now, downloads=tuple(told)))

    def _claim(
        self, known: Known, ref: AttemptRef, decision: Decision, state: AttemptState | None
    ) -> None:
        policy, now = self.policy, self.clock()
        assert policy is not None
        grantable = (None, AttemptState.WITHDRAWN, AttemptState.NOT_REQUESTED)
        assert state in grantable, f"offered although {state}"
        ring = next((ring for ring in policy.rings if ring.name == decision.ring), None)
        if ring is not None and ring.max_concurrent is not None:
            assert self.in_flight(ring.name) < ring.max_concurrent, "more in flight than may be"
        if decision.reason is DecisionReason.OFFERED:
            assert policy.run not in self.trips, "offered although the breaker is open"
            assert not policy.tripped, "offered although the breaker is open"
            assert is_open(policy.windows, now), "offered outside of every window"
        name = decision.ring or ""
        self._join(known, ref, Facts(first_offer=FirstOffer(now, name), last_offer=now))
        known.slots[ref] = name
        log = self._log(known.device.id, ref)
        first = known.attempts[ref].first_offer
        log.ring = first.ring if first is not None else name

    def _said(self, known: Known, version: str) -> None:
        policy, now = self.policy, self.clock()
        bears = None
        if policy is not None:
            runs = {
                ref: next(
                    (r.version for r in policy.releases if r.digest == ref.digest),
                    next((g.version for g in policy.rollback_from if g.digest == ref.digest), ""),
                )
                for ref in relevant(policy)
            }
            for ref, bearing in runs.items():
                log = self._log(known.device.id, ref)
                if versions.same(version, bearing):
                    self._join(known, ref, Facts(target_first=now, target_last=now))
                    log.good = now if log.good is None else max(log.good, now)
                    bears = ref.digest
                elif ref in known.attempts:
                    self._join(known, ref, Facts(other_first=now, other_last=now))
        known.device = replace(known.device, version=version, digest=bears)

    def _join(self, known: Known, ref: AttemptRef, facts: Facts) -> None:
        known.attempts[ref] = known.attempts.get(ref, Facts()).join(facts)

    def _log(self, name: str, ref: AttemptRef) -> Log:
        return self.log.setdefault((name, ref), Log())
