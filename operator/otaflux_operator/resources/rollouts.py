"""FirmwareRollout: the release a user wants, and how far it may go."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from otaflux_operator.resources.bases import API_VERSION, Metadata, ResourceModel
from otaflux_operator.resources.durations import (
    DURATION_PATTERN,
    Duration,
    Span,
    WindowSpan,
)
from otaflux_operator.resources.formats import (
    Digest,
    MediaType,
    Model,
    ObjectName,
    PrintableText,
    ReleaseReference,
    ReleaseVersion,
    Repository,
    Schedule,
    SemanticVersion,
    SemverRange,
    Tag,
    TimeZone,
    Token,
)
from otaflux_operator.resources.rings import Approval, Ring
from otaflux_operator.resources.rules import Checked, Keyed, Rule
from otaflux_operator.resources.selectors import DeviceSelector
from otaflux_operator.resources.statuses import RolloutStatus
from otaflux_policy.contract import Confirmation, Downgrade, State
from otaflux_policy.windows import Window as PolicyWindow

_SELECTS = (
    "has(r.deviceSelector) && ("
    "(has(r.deviceSelector.matchLabels) && r.deviceSelector.matchLabels.size() > 0) || "
    "(has(r.deviceSelector.matchExpressions) && r.deviceSelector.matchExpressions.size() > 0) || "
    "(has(r.deviceSelector.names) && r.deviceSelector.names.size() > 0))"
)


def _percentages_rise(rings: tuple[Ring, ...]) -> bool:
    percentages = [ring.percent for ring in rings if ring.percent is not None and not ring.selects]
    return percentages == sorted(percentages)


def _approvals_name_rings(spec: "FirmwareRolloutSpec") -> bool:
    names = {ring.name for ring in spec.rings}
    return all(approval.ring in names for approval in spec.approvals)


def _active_longer_than_timeout(spec: "FirmwareRolloutSpec") -> bool:
    return spec.active_within.seconds >= spec.device_timeout.seconds


ONE_REFERENCE = Rule(
    cel="[has(self.tag), has(self.semver), has(self.digest)].filter(given, given).size() == 1",
    message="write exactly one of tag, semver and digest",
    holds=lambda artifact: [artifact.tag, artifact.semver, artifact.digest].count(None) == 2,
)
PERCENTAGES_RISE = Rule(
    cel=f"self.filter(r, has(r.percent) && !({_SELECTS})).map(r, r.percent).isSorted()",
    message="write percentages that do not fall from one ring to the next (for rings without a "
    "deviceSelector they are cumulative: 10, 30, 100)",
    holds=_percentages_rise,
)
CATCH_ALL_LAST = Rule(
    cel=f"self.filter(r, !has(r.percent) && !({_SELECTS}))"
    ".all(r, r.name == self[self.size() - 1].name)",
    message="write a percent or a deviceSelector that is not empty for every ring but the last: "
    "a ring without them takes every device, and the rings after it get none",
    holds=lambda rings: not any(ring.catches_all for ring in rings[:-1]),
)
APPROVALS_NAME_RINGS = Rule(
    cel="!has(self.approvals) || "
    "self.approvals.all(approval, self.rings.exists(r, r.name == approval.ring))",
    message="write the name of an entry of rings as the ring of every approval",
    holds=_approvals_name_rings,
    field="approvals",
)
# Silent where one of the two is no duration: its own rule says so.
ACTIVE_LONGER_THAN_TIMEOUT = Rule(
    cel=f"!self.activeWithin.matches(r'{DURATION_PATTERN}') || "
    f"!self.deviceTimeout.matches(r'{DURATION_PATTERN}') || "
    "duration(self.activeWithin) < duration('1s') || "
    "duration(self.activeWithin) >= duration(self.deviceTimeout)",
    message="write an activeWithin that is at least as long as deviceTimeout",
    holds=_active_longer_than_timeout,
    field="activeWithin",
)


class VerifyProvider(StrEnum):
    """Who made the signatures."""

    COSIGN = "cosign"


class SecretReference(ResourceModel):
    """Names a Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class LayerSelector(ResourceModel):
    """Picks the layer that is the firmware."""

    media_type: MediaType = Field(default="", description="Media type of the layer; empty: any.")
    title: PrintableText = Field(
        default="",
        description="File name of the layer (annotation org.opencontainers.image.title), or path "
        "of the file in an image's one archive; empty: any.",
    )


class Artifact(ResourceModel):
    """Where the firmware is, in an OCI registry."""

    repository: Repository = Field(
        description="Repository as host[:port]/path, without a scheme and without a tag."
    )
    tag: Tag | None = Field(
        default=None,
        description="Tag of the release; resolved again every interval. Exactly one of tag, "
        "semver and digest is given.",
    )
    semver: SemverRange | None = Field(
        default=None,
        description="Range of semantic versions; the newest tag in it is the release, which never "
        "moves down. Exactly one of tag, semver and digest is given.",
    )
    digest: Digest | None = Field(
        default=None,
        description="Manifest digest of the release. Exactly one of tag, semver and digest is "
        "given.",
    )
    interval: Span = Field(
        default=Duration("5m"), description="How often a tag or range is resolved again."
    )
    secret_ref: SecretReference | None = Field(
        default=None,
        description="Secret of type kubernetes.io/dockerconfigjson with the credentials for the "
        "registry. Absent: anonymous.",
    )
    cert_secret_ref: SecretReference | None = Field(
        default=None,
        description="Secret with the certificate of the registry's own authority (ca.crt), and "
        "optionally a client certificate (tls.crt, tls.key).",
    )
    layer_selector: LayerSelector | None = Field(
        default=None,
        description="Picks the firmware where several layers of the manifest could be it.",
    )
    insecure: bool = Field(default=False, description="Whether the registry speaks plain http.")


class Verify(ResourceModel):
    """How the release's signature is checked before any device is offered it."""

    provider: VerifyProvider = Field(
        default=VerifyProvider.COSIGN, description="Kind of the signature."
    )
    secret_ref: SecretReference = Field(
        description="Secret with the public keys; the key in every entry *.pub may sign."
    )
    product: PrintableText = Field(
        default="",
        description="Value that the signature's annotation of this product must have; empty: any.",
    )


class Compatibility(ResourceModel):
    """What a device must be for the rollout to match it."""

    models: Annotated[
        tuple[Model, ...],
        Field(max_length=50),
        Keyed(),
    ] = Field(
        default=(),
        description="Models that the firmware is for; a device of unknown model is none of them. "
        "Empty: any model.",
    )
    min_version: SemanticVersion | None = Field(
        default=None,
        description="Oldest version from which a device may be updated; a device of unknown "
        "version does not match. Absent: any version.",
    )


class Rollback(ResourceModel):
    """Takes a release back by hand."""

    from_: ReleaseReference = Field(
        alias="from",
        description="Version or manifest digest of the release to take back; once another one is "
        "current the rollback is ignored.",
    )
    to: ReleaseReference = Field(
        description="Version or manifest digest, from status.history, that devices get instead."
    )


class Window(ResourceModel):
    """A time at which devices may start an update."""

    schedule: Schedule = Field(
        description="When the window opens: five cron fields (minute, hour, day of month, month, "
        "day of week)."
    )
    duration: WindowSpan = Field(description="How long the window stays open.")
    time_zone: TimeZone = Field(
        default="UTC", description="IANA name of the time zone of the schedule."
    )

    def contract(self) -> PolicyWindow:
        """As the policy carries it.

        Raises:
            ValueError: the schedule never comes, or there is no such time zone.
        """
        return PolicyWindow(
            schedule=self.schedule, duration=self.duration.seconds, time_zone=self.time_zone
        )


class FirmwareRolloutSpec(ResourceModel):
    """What a FirmwareRollout asks for."""

    artifact: Annotated[Artifact, Checked(ONE_REFERENCE)] = Field(
        description="Where the firmware is, in an OCI registry."
    )
    verify: Verify | None = Field(
        default=None,
        description="How the release's signature is checked. Absent: it is not.",
    )
    version: ReleaseVersion = Field(
        default="",
        description="Version of the release. Normally empty: it is the manifest's annotation "
        "org.opencontainers.image.version, else the tag.",
    )
    device_selector: DeviceSelector = Field(
        description="Devices that the rollout is for; {} selects every device of the namespace."
    )
    compatibility: Compatibility = Field(
        default=Compatibility(),
        description="Models and versions of devices that the firmware is for. Absent: all.",
    )
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = Field(
        default=0,
        description="Among several rollouts that match a device the highest priority wins, then "
        "the oldest rollout, then the first by name.",
    )
    downgrade: Downgrade = Field(
        default=Downgrade.FORBID,
        description="Whether a release older than what devices run may go out: Forbid or Allow.",
    )
    rings: Annotated[
        tuple[Ring, ...],
        Field(min_length=1, max_length=20),
        Keyed("name"),
        Checked(PERCENTAGES_RISE, CATCH_ALL_LAST),
    ] = Field(
        description="Parts of the fleet in the order in which they are updated; a device is in the "
        "first ring that fits."
    )
    device_timeout: Span = Field(
        default=Duration("24h"),
        description="How long a device may take from the first byte of the download to an "
        "outcome; past it the attempt counts as failed.",
    )
    active_within: Span = Field(
        default=Duration("168h"),
        description="How recently a device must have been seen to count; at least deviceTimeout.",
    )
    confirmation: Confirmation = Field(
        default=Confirmation.AUTO,
        description="What proves that a device runs the release: its report (Reported), its polls "
        "after the download (Polled), or Auto: a report from devices that ever reported one.",
    )
    approvals: Annotated[
        tuple[Approval, ...],
        Field(max_length=50),
        Keyed("ring", "release"),
    ] = Field(
        default=(), description="Consent to open rings; each entry is for one ring and release."
    )
    state: State = Field(
        default=State.ACTIVE,
        description="Active goes on, Paused offers nothing until it is Active again, Aborted ends "
        "the run for good.",
    )
    rollback: Rollback | None = Field(
        default=None, description="Takes a release back by hand. Absent: nothing is taken back."
    )
    windows: Annotated[tuple[Window, ...], Field(max_length=10)] = Field(
        default=(),
        description="Times at which devices may start an update. Absent: at any time.",
    )
    retry_token: Token = Field(
        default="",
        description="Change it to run a failed or aborted release again, from the first ring.",
    )
    history_limit: Annotated[int, Field(ge=0, le=50)] = Field(
        default=10,
        description="Number of ended runs that status.history keeps; beyond it also the aborted "
        "and rolled back ones whose release may not run again (50 in all).",
    )


class FirmwareRollout(ResourceModel):
    """Releases firmware to a fleet ring by ring, as far as the evidence of its devices permits."""

    api_version: Literal["otaflux.io/v1alpha1"] = API_VERSION
    kind: Literal["FirmwareRollout"] = "FirmwareRollout"
    metadata: Metadata
    spec: Annotated[
        FirmwareRolloutSpec, Checked(APPROVALS_NAME_RINGS, ACTIVE_LONGER_THAN_TIMEOUT)
    ] = Field(description="What the rollout asks for.")
    status: RolloutStatus = Field(
        default=RolloutStatus(), description="How far the rollout is; written by the operator."
    )
