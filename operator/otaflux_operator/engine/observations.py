"""What is known of the world when a rollout is looked at."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from otaflux_operator.reasons import Reason
from otaflux_policy.contract import Artifact, Policy
from otaflux_policy.counts import RolloutCounts
from otaflux_policy.served import ServedRollout

FRESH = timedelta(seconds=60)
"""What servers said longer ago than this is not relied upon."""

SKEW = timedelta(seconds=10)
"""How far ahead of ours the clock may be by which servers tell when they counted."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A signature that holds: the name of the key that made it, and when that was found."""

    key: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A release as the registry has it: what `spec.artifact` was resolved to.

    `by_range`: from a range of versions, which never moves down. `models` and `min_version`: what
    its manifest says of the devices that it is for. `proof`: where `spec.verify` asks for one; by
    the keys as they are now.
    """

    version: str
    digest: str
    artifact: Artifact
    at: datetime
    by_range: bool = False
    models: tuple[str, ...] = ()
    min_version: str | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the artifact could not be resolved last; `lasting`: time alone will not help."""

    reason: Reason
    message: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Unverified:
    """What `spec.artifact` was resolved to and may not be released, and why (`spec.verify`)."""

    version: str
    digest: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """How far the artifact of this very spec is resolved: `found` survives a later `failure`.

    With `spec.verify`, only as long as it is known to verify by the keys as they are now; what does
    not is `unverified`. `current`: the same of the current release, where that is another one, or
    was found before the registry stopped to answer. `doubtful`: whether the current release
    verifies by the keys as they are now is not known.
    """

    found: Found | None = None
    failure: Failure | None = None
    unverified: Unverified | None = None
    current: Unverified | None = None
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the servers said last (`said` at `at`), and why they do not answer now (`problem`)."""

    said: ServedRollout | None = None
    at: datetime | None = None
    problem: str = ""

    def fresh(self, now: datetime) -> ServedRollout | None:
        """What they said, unless it is too old to be relied upon."""
        if self.said is None or self.at is None or not is_recent(self.at, now):
            return None
        return self.said


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of a run, or, where nothing can be judged by them, why."""

    counts: RolloutCounts | None = None
    problem: str = ""


def is_recent(time: datetime, now: datetime) -> bool:
    """Whether what is of this time may be relied upon; after a clock jumped back it may not."""
    return -SKEW <= now - time <= FRESH


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that `advance` looks at beside the rollout itself.

    `published` is the policy that servers read now (None: none, or an unusable one); `mine`:
    it is owned by this very object, not by one of the same name before it; `damaged`: it has to be
    written again even if it says the right thing. `unpublishable`: why nothing can be published
    now, whatever it says; empty: it can.
    """

    resolution: Resolution = Resolution()
    published: Policy | None = None
    mine: bool = False
    damaged: bool = False
    unpublishable: str = ""
    answer: Answer = Answer()

    def served(self, now: datetime) -> ServedRollout | None:
        """What servers said lately, if they use the published policy and it is of this object."""
        published, said = self.published, self.answer.fresh(now)
        if published is None or said is None or not self.mine:
            return None
        return said if said.revision == published.revision else None

    def counted(self, run: int, release: str, now: datetime) -> Counted:
        """The counts of this run of the release with this manifest digest, if they conclude.

        They do where they are recent, and of the published policy as it is served.
        """
        published, said = self.published, self.answer.fresh(now)
        if said is None:
            return Counted(problem="the servers were not heard of lately")
        if published is None or not self.mine:
            return Counted(problem="no policy is published")
        if said.revision != published.revision:
            return Counted(problem="the servers do not use the published policy yet")
        counts = said.counts
        if counts is None:
            return Counted(problem="the servers have not read their evidence yet")
        if not is_recent(counts.at, now):
            age = int((now - counts.at).total_seconds())
            return Counted(
                problem=f"the counts are {age} s old"
                if age > 0
                else f"the counts are {-age} s ahead of the operator's clock"
            )
        target = published.target.digest if published.target is not None else None
        same = (counts.revision, counts.release, counts.run)
        if same != (published.revision, target, published.run) or (target, published.run) != (
            release,
            run,
        ):
            return Counted(problem="the counts are of another policy or run")
        return Counted(counts)
