"""The engine: pure functions from a rollout and what is known of the world to what should be.

`advance` runs the steps in order: take over what was published before a crash, note pauses, end
an aborted run, take back by hand, choose a candidate, go back to stable, promote, look for rings
that failed and answer that, open and complete rings, end a rollback; then the policy and the
status follow from what was decided.
"""

from otaflux_operator.engine.advancing import advance
from otaflux_operator.engine.observations import (
    FRESH,
    Answer,
    Failure,
    Found,
    Observation,
    Proof,
    Resolution,
    Unverified,
)
from otaflux_operator.engine.outcomes import Outcome, Waiting

__all__ = [
    "FRESH",
    "Answer",
    "Failure",
    "Found",
    "Observation",
    "Outcome",
    "Proof",
    "Resolution",
    "Unverified",
    "Waiting",
    "advance",
]
