"""What looking at a rollout comes to."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from otaflux_operator.resources.statuses import RolloutStatus
from otaflux_policy.contract import Policy


class Waiting(StrEnum):
    """What a rollout waits for, beside changes of its spec."""

    REGISTRY = "Registry"
    SERVERS = "Servers"
    PERSON = "Person"
    EVIDENCE = "Evidence"
    NOTHING = "Nothing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status as it should be, and the sealed policy to publish (None: it is as published).

    `wake_at` is the next time at which the outcome can change by time alone; `waiting` says what
    else it waits for.
    """

    status: RolloutStatus
    policy: Policy | None
    wake_at: datetime | None
    waiting: frozenset[Waiting] = field(default_factory=frozenset)
