"""A rollout under way, its devices, and how far they can be."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.contract import (
    Artifact,
    FailureAction,
    FailureRule,
    Policy,
    Release,
    ReleaseRun,
    Ring,
)
from otaflux_policy.devices import Device
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_policy.selectors import DeviceSelector

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = 24 * 60
S = AttemptState


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def release(number: int) -> Release:
    artifact = Artifact(
        digest=f"sha256:{number + 100:064x}",
        size=1,
        media_type="x",
        repository="registry.example.com/firmware",
    )
    return Release(version=f"1.{number}.0", digest=f"sha256:{number:064x}", artifacts=(artifact,))


STABLE, TARGET = release(1), release(2)
RULE = FailureRule(max_percent=20, min_sample=3, action=FailureAction.PAUSE)
CANARY = Ring(name="canary", open=True, percent=10, failure=RULE)
FLEET = Ring(name="fleet", failure=RULE)
LIVE = Policy(
    revision="sha256:1",
    namespace="home",
    name="thermostat",
    created_at=START,
    device_selector=DeviceSelector(),
    run=2,
    target=TARGET,
    stable=STABLE,
    rings=(CANARY, FLEET),
    rollback_from=(ReleaseRun(version=TARGET.version, digest=TARGET.digest, run=2),),
    device_timeout=DAY * 60,
    active_within=7 * DAY * 60,
)
BACK = LIVE.model_copy(update={"run": 3, "rolling_back": True})
HERE, WAY_BACK = AttemptRef(2, TARGET.digest), AttemptRef(3, STABLE.digest)
OLD = Device("home", "kitchen-1", version=STABLE.version)
ON_TARGET = replace(OLD, version=TARGET.version)
SILENT = replace(OLD, version=None)

OFFERED = Facts(first_offer=FirstOffer(at(0), "canary"), last_offer=at(0), last_poll=at(0))
BEGUN = replace(OFFERED, first_byte=at(1), last_request=at(1))
DOWNLOADED = replace(BEGUN, downloads=(Download(at(1), at(2)),))
INSTALLING = replace(DOWNLOADED, install_reported=at(3))
UPDATED = replace(INSTALLING, target_first=at(4), target_last=at(4))
FAILED = replace(INSTALLING, failure=ReportedFailure(at(5), "E_FLASH"))


def changed(**fields: object) -> Policy:
    return LIVE.model_copy(update=fields)


BOTH_OPEN = changed(rings=(CANARY, FLEET.model_copy(update={"open": True})))
