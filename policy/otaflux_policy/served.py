"""What an update server tells the operator of one rollout (its internal API)."""

from enum import StrEnum

from pydantic import AwareDatetime

from otaflux_policy.contract import Digest
from otaflux_policy.counts import RolloutCounts, Trip
from otaflux_policy.models import ContractModel
from otaflux_policy.rejections import RejectionReason


class ArtifactState(StrEnum):
    """How far a server is with an artifact that a policy lists."""

    FETCHING = "Fetching"
    STORED = "Stored"
    FAILED = "Failed"


class ServedArtifact(ContractModel):
    """An artifact that a policy lists; `reason` and `message` say why it failed last."""

    digest: Digest
    state: ArtifactState
    reason: str = ""
    message: str = ""


class ServedRollout(ContractModel):
    """`GET /internal/v1/rollouts/{namespace}/{name}`.

    `revision` is that of the policy in use (None: none is), `rejected` why the published one is
    not, and `rejection` the same in a word, `run` the highest run known for the name (0: none),
    also of a rollout that is gone, `schema_versions` the policy versions that every live replica
    reads, `policy_keys` the ids of the keys by which every one takes a policy as signed, `epoch`
    the highest that any of them knows, of whatever policy or group. `counts` is None while the
    evidence is not known (the database was not read yet); `trip` is that of the run in use.
    """

    namespace: str
    name: str
    revision: str | None = None
    rejected: str = ""
    rejection: RejectionReason | None = None
    run: int = 0
    schema_versions: tuple[int, ...] = ()
    policy_keys: tuple[str, ...] = ()
    epoch: int = 0
    artifacts: tuple[ServedArtifact, ...] = ()
    counts: RolloutCounts | None = None
    trip: Trip | None = None

    def stored(self, digest: str) -> bool:
        """Whether the bytes with this digest can be served."""
        return any(
            artifact.digest == digest and artifact.state is ArtifactState.STORED
            for artifact in self.artifacts
        )


class ServedPolicy(ContractModel):
    """The policy that a replica uses for one rollout; the later one by the last three is newer."""

    namespace: str
    name: str
    revision: str
    created_at: AwareDatetime
    epoch: int = 0
    sequence: int = 0


class Replica(ContractModel):
    """One update server of those that share a database, as it told last.

    `live`: that was recent. `database_schema` is the version that it works on, `policy_keys` and
    `epoch` are as in `ServedRollout`.
    """

    name: str
    started_at: AwareDatetime
    seen_at: AwareDatetime
    live: bool = True
    database_schema: str = ""
    schema_versions: tuple[int, ...] = ()
    policy_keys: tuple[str, ...] = ()
    epoch: int = 0
    policies: tuple[ServedPolicy, ...] = ()
    artifacts: tuple[ServedArtifact, ...] = ()
