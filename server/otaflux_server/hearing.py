"""What polls and reports tell of attempts."""

from datetime import datetime

from otaflux_policy import versions
from otaflux_policy.assessing import deciding, terms
from otaflux_policy.attempts import IN_FLIGHT, AttemptRef, AttemptState
from otaflux_policy.contract import Policy
from otaflux_policy.decisions import Decision, Match
from otaflux_policy.evidence import Terms, standing
from otaflux_policy.facts import Download, Facts, ReportedFailure
from otaflux_policy.reasons import DecisionReason
from otaflux_server.decisions import Cached, Decisions
from otaflux_server.devices import DeviceRecord
from otaflux_server.learning import Learning, moment, refs_of

NEVER = float("inf")


class Hearing:
    """Turns what devices say and ask into facts of the attempts that it concerns."""

    def __init__(self, decisions: Decisions, learning: Learning) -> None:
        self._decisions = decisions
        self._learning = learning

    def hear(self, record: DeviceRecord, at: datetime) -> None:
        """What a poll says counts for its own answer."""
        matched = self._decisions.placed(record).matched
        policy = matched.policy if isinstance(matched, Match) else None
        attempts = record.attempts.get(policy.name) if policy is not None else None
        if policy is None or not attempts:
            return
        for ref, version in refs_of(policy).items():
            if ref.run == policy.run and ref in attempts:
                said = said_of(record.device.version, ref, version, at)
                self._learning.learn(record, policy.name, ref, said)

    def polled(self, record: DeviceRecord, decision: Decision, at: datetime) -> float:
        """Records the poll on the attempts that it concerns; from when on one tells more."""
        cached = record.cached
        policy = cached.policy if cached is not None else None
        attempts = record.attempts.get(policy.name) if policy is not None else None
        if policy is None or not attempts:
            return NEVER
        release = decision.release
        concerned = {deciding(policy)}
        if release is not None:
            concerned.add(AttemptRef(policy.run, release.digest))
        known_versions = refs_of(policy)
        news = NEVER
        for ref in concerned:
            known = attempts.get(ref) if ref is not None else None
            if known is None and _is_back(cached, decision):
                known = Facts()
            if ref is None or known is None:
                continue
            given = release is not None and release.digest == ref.digest
            facts = _poll(known, ref, known_versions[ref], record.device.version, at, given=given)
            self._learning.learn(record, policy.name, ref, facts)
            if given:
                judged_by = terms(policy, self._decisions.spans, reports=record.reports)
                news = min(news, _next_news(attempts[ref], judged_by, at))
        return news

    def reported(self, record: DeviceRecord) -> bool:
        """Records what the device reports of a release; False: of none that concerns it."""
        report, cached = record.report, record.cached
        if report is None:
            return False
        policy = cached.policy if cached is not None else None
        named = None if policy is None else self._named(record, policy, report.release)
        if policy is None or named is None:
            return False
        ref, version = named
        at = moment(record.last_seen)
        known = record.attempts.get(policy.name, {}).get(ref)
        match report.state:
            case "Downloading":
                facts = Facts(first_byte=at, last_request=at)
            case "Downloaded":
                complete = () if known is not None and known.downloads else (Download(at, at),)
                facts = Facts(downloads=complete)
            case "Installing":
                facts = Facts(install_reported=at)
            case "Updated":
                facts = Facts(target_first=at, target_last=at)
                self._learning.says(record, version, record.device.model)
            case _:
                facts = Facts(failure=ReportedFailure(at, report.code or ""))
        self._learning.learn(record, policy.name, ref, facts)
        return True

    def _named(
        self, record: DeviceRecord, policy: Policy, name: str
    ) -> tuple[AttemptRef, str] | None:
        """The attempt that a report means by a version or digest."""
        attempts = record.attempts.get(policy.name, {})
        current = deciding(policy)
        found = [
            (ref, version)
            for ref, version in refs_of(policy).items()
            if (ref.digest == name or versions.same(version, name))
            and (ref.run == policy.run or ref in attempts)
        ]
        return max(found, key=lambda item: (item[0] == current, item[0].run), default=None)


def _is_back(cached: Cached | None, decision: Decision) -> bool:
    """Whether a device that a rollback concerns runs the stable release, unasked."""
    if cached is None or decision.reason is not DecisionReason.UP_TO_DATE:
        return False
    policy, attempt = cached.policy, cached.assessed.attempt
    rolling_back = policy is not None and policy.rolling_back
    return rolling_back and attempt is not None and attempt.touched


def _poll(
    known: Facts, ref: AttemptRef, version: str, said: str | None, at: datetime, *, given: bool
) -> Facts:
    """What a poll at `at` tells of an attempt; `given`: it was answered with the release."""
    polls = [Download(download.started, download.completed, at, at) for download in known.downloads]
    polled = Facts(last_poll=at, downloads=tuple(polls)) if given else Facts()
    return said_of(said, ref, version, at).join(polled)


def _next_news(facts: Facts, judged_by: Terms, at: datetime) -> float:
    """From when on a poll that says the same as this one may change how far the attempt is."""
    where = standing(facts, judged_by, at)
    if where is None or where.state not in IN_FLIGHT:
        return NEVER
    instants = []
    for download in facts.downloads:
        if judged_by.polled:
            instants.append(download.completed + judged_by.poll_gap)
        else:
            instants.append(download.completed + judged_by.install_grace)
    if judged_by.polled and where.state is AttemptState.OFFERED and facts.last_offer is not None:
        instants.append(facts.last_offer + judged_by.request_within)
    if judged_by.polled and any(instant <= at for instant in instants):
        return 0.0
    return min((each.timestamp() for each in instants if each > at), default=NEVER)


def said_of(said: str | None, ref: AttemptRef, version: str, at: datetime) -> Facts:
    """What it means for an attempt at the release `version` that the device said `said`."""
    if said is None:
        return Facts()
    if said == ref.digest or versions.same(said, version):
        return Facts(target_first=at, target_last=at)
    return Facts(other_first=at, other_last=at)
