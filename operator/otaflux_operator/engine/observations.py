"""What is known of the world when a rollout is looked at."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from otaflux_operator.reasons import Reason
from otaflux_policy.contract import Artifact, Policy
from otaflux_policy.served import ServedRollout

FRESH = timedelta(seconds=60)
"""What servers said longer ago than this is not relied upon."""


@dataclass(frozen=True, slots=True)
class Found:
    """A release as the registry has it: what `spec.artifact` was resolved to.

    `by_range`: from a range of versions, which never moves down.
    """

    version: str
    digest: str
    artifact: Artifact
    at: datetime
    by_range: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the artifact could not be resolved last; `lasting`: time alone will not help."""

    reason: Reason
    message: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """How far the artifact of this very spec is resolved: `found` survives a later `failure`."""

    found: Found | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the servers said last (`said` at `at`), and why they do not answer now (`problem`)."""

    said: ServedRollout | None = None
    at: datetime | None = None
    problem: str = ""

    def fresh(self, now: datetime) -> ServedRollout | None:
        """What they said, unless it is too old to be relied upon."""
        if self.said is None or self.at is None or now - self.at > FRESH:
            return None
        return self.said


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that `advance` looks at beside the rollout itself.

    `published` is the policy that servers read now (None: none, or an unusable one); `mine`:
    it is owned by this very object, not by one of the same name before it; `damaged`: it has to be
    written again even if it says the right thing.
    """

    resolution: Resolution = Resolution()
    published: Policy | None = None
    mine: bool = False
    damaged: bool = False
    answer: Answer = Answer()
