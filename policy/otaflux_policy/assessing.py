"""From the facts of a device's attempts to the one attempt that a decision looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from otaflux_policy.attempts import Attempt, AttemptRef
from otaflux_policy.contract import Confirmation, Policy
from otaflux_policy.evidence import Standing, Terms, standing
from otaflux_policy.facts import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The spans by which attempts are judged that no rollout sets (see `Terms`)."""

    install_grace: timedelta = timedelta(hours=1)
    poll_gap: timedelta = timedelta(seconds=60)
    request_within: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The deciding attempt of a device in one rollout; all None where there is none.

    `ran`: the device said once that it ran a release since the stable one.
    """

    attempt: Attempt | None = None
    standing: Standing | None = None
    facts: Facts | None = None
    ran: bool = False

    @property
    def began(self) -> bool:
        """Whether the attempt began in this run: by an offer of ours, or a first byte."""
        facts = self.facts
        return facts is not None and not (facts.first_offer is None and facts.first_byte is None)


def deciding(policy: Policy) -> AttemptRef | None:
    """The attempt that decides: this run's, in a rollback that at the stable release."""
    release = policy.stable if policy.rolling_back else policy.target
    return None if release is None else AttemptRef(policy.run, release.digest)


def relevant(policy: Policy) -> frozenset[AttemptRef]:
    """Every attempt that a decision by this policy looks at."""
    refs = {AttemptRef(gone.run, gone.digest) for gone in policy.rollback_from}
    refs |= {
        AttemptRef(policy.run, release.digest)
        for release in (policy.target, policy.stable)
        if release is not None
    }
    return frozenset(refs)


def terms(policy: Policy, spans: Spans, *, reports: bool) -> Terms:
    """How this rollout judges a device; `reports`: it ever reported a version."""
    silent = policy.confirmation is Confirmation.AUTO and not reports
    polled = policy.confirmation is Confirmation.POLLED or silent
    return _terms(policy.device_timeout, polled, spans)


@lru_cache(maxsize=1024)
def _terms(device_timeout: int, polled: bool, spans: Spans) -> Terms:
    return Terms(
        device_timeout=timedelta(seconds=device_timeout),
        polled=polled,
        install_grace=spans.install_grace,
        poll_gap=spans.poll_gap,
        request_within=spans.request_within,
    )


def assess(
    policy: Policy, known: Mapping[AttemptRef, Facts], judged_by: Terms, now: datetime
) -> Assessment:
    """The attempt at `now`, from the facts of all the device's attempts in this rollout."""
    ref = deciding(policy)
    facts = known.get(ref) if ref is not None else None
    where = None if facts is None else standing(facts, judged_by, now)
    since_stable = [known.get(AttemptRef(gone.run, gone.digest)) for gone in policy.rollback_from]
    touched = any(has_bytes(gone) for gone in since_stable)
    ran = any(gone is not None and gone.target_first is not None for gone in since_stable)
    if where is None and not touched:
        return Assessment(None, None, facts, ran)
    return Assessment(Attempt(where.state if where else None, touched), where, facts, ran)


def has_bytes(facts: Facts | None) -> bool:
    """Whether the first byte of the release went to the device."""
    return facts is not None and (facts.first_byte is not None or bool(facts.downloads))
