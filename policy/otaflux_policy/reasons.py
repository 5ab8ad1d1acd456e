"""Why a device gets what it gets: one word in metrics, logs, internal API and `explain`."""

from enum import StrEnum


class DecisionReason(StrEnum):
    """The reason of a `Decision`; `MEANINGS` says what each tells a person."""

    NO_MATCH = "NoMatch"
    INCOMPATIBLE = "Incompatible"
    RING_CLOSED = "RingClosed"
    PAUSED = "Paused"
    ABORTED = "Aborted"
    OUTSIDE_WINDOW = "OutsideWindow"
    CONCURRENCY_LIMIT = "ConcurrencyLimit"
    BREAKER_OPEN = "BreakerOpen"
    DOWNGRADE_FORBIDDEN = "DowngradeForbidden"
    PREVIOUSLY_FAILED = "PreviouslyFailed"
    ARTIFACT_UNAVAILABLE = "ArtifactUnavailable"
    UP_TO_DATE = "UpToDate"
    OFFERED = "Offered"
    ROLLING_BACK = "RollingBack"
    HOLD = "Hold"


MEANINGS: dict[DecisionReason, str] = {
    DecisionReason.NO_MATCH: "No rollout of the device's namespace selects it.",
    DecisionReason.INCOMPATIBLE: (
        "Rollouts select the device, but none of them admits its model and version."
    ),
    DecisionReason.RING_CLOSED: (
        "The device's ring is not open yet (or it is in none): it gets the stable release, "
        "or nothing where there is none or it runs something newer."
    ),
    DecisionReason.PAUSED: "The rollout is paused.",
    DecisionReason.ABORTED: "The rollout's run was aborted.",
    DecisionReason.OUTSIDE_WINDOW: "No maintenance window is open.",
    DecisionReason.CONCURRENCY_LIMIT: "The ring's `maxConcurrent` devices are updating already.",
    DecisionReason.BREAKER_OPEN: "Too many devices of a ring failed: no further offers.",
    DecisionReason.DOWNGRADE_FORBIDDEN: (
        "The device runs a newer version than the release, and `downgrade` is `Forbid`."
    ),
    DecisionReason.PREVIOUSLY_FAILED: "The device failed this release in this run.",
    DecisionReason.ARTIFACT_UNAVAILABLE: "The server has not stored the release's bytes (yet).",
    DecisionReason.UP_TO_DATE: "The device runs the release.",
    DecisionReason.OFFERED: "The device's ring is open: it is offered the release.",
    DecisionReason.ROLLING_BACK: "The run is rolling back: the device is offered the stable one.",
    DecisionReason.HOLD: "The server has no policy that it may use: it offers nothing.",
}
