"""Why a condition is as it is: one word each, also the reason of Kubernetes Events."""

from enum import StrEnum


class Reason(StrEnum):
    """The reason of a condition; `MEANINGS` says what each tells a person.

    Reasons of `ArtifactResolved` may also be those of the registry client (`otaflux_oci.errors`),
    which are members here too.
    """

    # How far the rollout is (Ready, Reconciling, Completed)
    RESOLVING = "Resolving"
    PUBLISHING = "Publishing"
    STORING_ARTIFACT = "StoringArtifact"
    WAITING_FOR_SERVERS = "WaitingForServers"
    SETTLED = "Settled"
    PROGRESSING = "Progressing"
    INCONCLUSIVE = "Inconclusive"
    SOAKING = "Soaking"
    NO_DEVICES = "NoDevices"
    TOO_FEW_DEVICES = "TooFewDevices"
    OUTSIDE_WINDOW = "OutsideWindow"
    AWAITING_APPROVAL = "AwaitingApproval"
    PAUSED = "Paused"
    ABORTED = "Aborted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    COMPLETED = "Completed"
    NOTHING_RELEASED = "NothingReleased"

    # How its devices do (Healthy), and rings that need a person
    HEALTHY = "Healthy"
    DEADLINE_EXCEEDED = "DeadlineExceeded"

    # The artifact
    RESOLVED = "Resolved"
    SECRET_NOT_FOUND = "SecretNotFound"
    SECRET_INVALID = "SecretInvalid"
    SECRET_UNAVAILABLE = "SecretUnavailable"
    VERSION_DIGEST_CHANGED = "VersionDigestChanged"
    DOWNGRADE_FORBIDDEN = "DowngradeForbidden"
    RELEASE_FAILED_BEFORE = "ReleaseFailedBefore"
    ANNOTATION_INVALID = "AnnotationInvalid"
    MODELS_EXCLUDED = "ModelsExcluded"
    OCI_ERROR = "OciError"
    INVALID_REFERENCE = "InvalidReference"
    INVALID_CREDENTIALS = "InvalidCredentials"
    REGISTRY_ERROR = "RegistryError"
    REGISTRY_UNREACHABLE = "RegistryUnreachable"
    TLS_FAILED = "TlsFailed"
    RATE_LIMITED = "RateLimited"
    ADDRESS_REFUSED = "AddressRefused"
    REALM_REFUSED = "RealmRefused"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    NOT_FOUND = "NotFound"
    MANIFEST_NOT_FOUND = "ManifestNotFound"
    CONTENT_ERROR = "ContentError"
    DIGEST_MISMATCH = "DigestMismatch"
    TOO_LARGE = "TooLarge"
    UNSUPPORTED_MANIFEST = "UnsupportedManifest"
    INVALID_ARCHIVE = "InvalidArchive"
    SELECTION_ERROR = "SelectionError"
    AMBIGUOUS_LAYERS = "AmbiguousLayers"
    NO_FIRMWARE_LAYER = "NoFirmwareLayer"
    VERSION_MISMATCH = "VersionMismatch"
    NO_MATCHING_VERSION = "NoMatchingVersion"

    # What a run goes through, told as Events
    RUN_STARTED = "RunStarted"
    RING_OPENED = "RingOpened"
    RING_SOAKING = "RingSoaking"
    RING_COMPLETED = "RingCompleted"
    RING_SKIPPED = "RingSkipped"
    RING_FAILED = "RingFailed"
    ROLLBACK_STARTED = "RollbackStarted"

    # The way back
    NO_STABLE_RELEASE = "NoStableRelease"
    ROLLBACK_TARGET_UNKNOWN = "RollbackTargetUnknown"

    # Signatures
    NOT_CONFIGURED = "NotConfigured"
    VERIFYING = "Verifying"
    VERIFIED = "Verified"
    SIGNATURE_ERROR = "SignatureError"
    SIGNATURE_MISSING = "SignatureMissing"
    SIGNATURE_INVALID = "SignatureInvalid"
    SIGNATURE_OF_OTHER_DIGEST = "SignatureOfOtherDigest"
    KEY_MISMATCH = "KeyMismatch"
    KEY_SECRET_NOT_FOUND = "KeySecretNotFound"
    KEY_SECRET_INVALID = "KeySecretInvalid"
    KEY_UNSUPPORTED = "KeyUnsupported"
    VERSION_ANNOTATION_MISSING = "VersionAnnotationMissing"
    PRODUCT_MISMATCH = "ProductMismatch"

    # The servers
    SERVED = "Served"
    NOT_SERVED_YET = "NotServedYet"
    POLICY_REJECTED = "PolicyRejected"
    SCHEMA_UNSUPPORTED = "SchemaUnsupported"
    SERVER_UNREACHABLE = "ServerUnreachable"
    ARTIFACT_NOT_STORED = "ArtifactNotStored"

    # A person is needed
    NOT_STALLED = "NotStalled"
    NOT_SUPPORTED = "NotSupported"
    INVALID_SPEC = "InvalidSpec"
    POLICY_TOO_LARGE = "PolicyTooLarge"
    SIGNING_KEY_UNUSABLE = "SigningKeyUnusable"

    # Told as Events alone
    POLICY_TAMPERED = "PolicyTampered"

    # Device groups
    PUBLISHED = "Published"
    NO_CONFLICT = "NoConflict"
    LABEL_CONFLICT = "LabelConflict"


MEANINGS: dict[Reason, str] = {
    Reason.RESOLVING: "The artifact of this generation is being looked up in the registry.",
    Reason.PUBLISHING: "The policy is being written.",
    Reason.STORING_ARTIFACT: "The servers are fetching the candidate's bytes; then it is released.",
    Reason.WAITING_FOR_SERVERS: "The policy is written, and not yet in use by the servers.",
    Reason.SETTLED: "The operator has nothing to do until something changes.",
    Reason.PROGRESSING: "The release goes through its rings.",
    Reason.INCONCLUSIVE: (
        "The ring cannot be judged now, for want of recent counts of the published policy: it "
        "waits. An approval with effect Override opens the next ring nevertheless."
    ),
    Reason.SOAKING: "The ring's success condition holds; it has to hold for the ring's soak.",
    Reason.NO_DEVICES: (
        "No known device is in the ring: it waits for one. With `onEmpty: Skip` it is skipped."
    ),
    Reason.TOO_FEW_DEVICES: (
        "The ring has fewer devices than success.minDevices: it waits for more, or for a lower "
        "minDevices."
    ),
    Reason.OUTSIDE_WINDOW: (
        "No window of spec.windows is open: no device starts until the next one; started ones "
        "may finish."
    ),
    Reason.AWAITING_APPROVAL: "The next ring opens once spec.approvals names it and the release.",
    Reason.PAUSED: "spec.state is Paused: no device is offered anything until it is Active again.",
    Reason.ABORTED: (
        "spec.state was Aborted, which ended the run: another release, or another "
        "spec.retryToken with the state Active, begins a new one."
    ),
    Reason.ROLLING_BACK: "Devices on the failed release are offered the stable one.",
    Reason.ROLLED_BACK: "The stable release is offered instead of the one that was taken back.",
    Reason.COMPLETED: "Every ring completed: the release is the stable one.",
    Reason.NOTHING_RELEASED: "Nothing was released yet.",
    Reason.HEALTHY: "No ring has more failures than its failure rule permits.",
    Reason.DEADLINE_EXCEEDED: (
        "A ring is not complete by its deadline. Offers go on; it clears once the ring's success "
        "condition holds or the deadline changes."
    ),
    Reason.RESOLVED: "The artifact is known by its manifest digest.",
    Reason.SECRET_NOT_FOUND: "A Secret that spec.artifact names does not exist in the namespace.",
    Reason.SECRET_INVALID: "A Secret that spec.artifact names does not hold what it should.",
    Reason.SECRET_UNAVAILABLE: (
        "A Secret with pull credentials cannot be read or handed over now: the operator may lack "
        "the permission."
    ),
    Reason.VERSION_DIGEST_CHANGED: (
        "The version was released before with other content: push it under a new version. The "
        "current release continues."
    ),
    Reason.DOWNGRADE_FORBIDDEN: (
        "The artifact is older than the stable release, which needs `downgrade: Allow`. The "
        "current release continues."
    ),
    Reason.RELEASE_FAILED_BEFORE: (
        "This content was rolled back or aborted: it is not released again until "
        "spec.retryToken changes."
    ),
    Reason.ANNOTATION_INVALID: (
        "An annotation of the manifest, io.otaflux.models or io.otaflux.min-version, says nothing "
        "that can be acted upon: push the artifact with a correct one."
    ),
    Reason.MODELS_EXCLUDED: (
        "The release is for none of the models that spec.compatibility names. The current release "
        "continues."
    ),
    Reason.OCI_ERROR: "The artifact could not be read.",
    Reason.INVALID_REFERENCE: "spec.artifact does not name a repository, tag, digest or range.",
    Reason.INVALID_CREDENTIALS: "The pull secret or the certificate Secret cannot be used.",
    Reason.REGISTRY_ERROR: "The registry answered with something that it should not.",
    Reason.REGISTRY_UNREACHABLE: "The registry cannot be reached, or did not answer in time.",
    Reason.TLS_FAILED: "The registry's certificate is not trusted, or refused ours.",
    Reason.RATE_LIMITED: "The registry limits how often it may be asked: it is asked again later.",
    Reason.ADDRESS_REFUSED: "The registry, or what it points to, has no address that may be "
    "connected to.",
    Reason.REALM_REFUSED: "The registry sends to a token server that may not get the credentials.",
    Reason.UNAUTHORIZED: "The registry wants other credentials (401).",
    Reason.FORBIDDEN: "The registry refuses access (403).",
    Reason.NOT_FOUND: "The registry does not know the repository or the content (404).",
    Reason.MANIFEST_NOT_FOUND: "The registry does not know the tag or digest (404).",
    Reason.CONTENT_ERROR: "What the registry gave is not what it has to be.",
    Reason.DIGEST_MISMATCH: "What the registry gave does not have the digest that was asked for.",
    Reason.TOO_LARGE: "The artifact or what describes it is larger than the limits allow.",
    Reason.UNSUPPORTED_MANIFEST: "The manifest is of a kind that is not read.",
    Reason.INVALID_ARCHIVE: (
        "The layer's tar archive is damaged, or holds links, devices or paths that lead out of it."
    ),
    Reason.SELECTION_ERROR: "Nothing, or too much, fits what spec.artifact asks for.",
    Reason.AMBIGUOUS_LAYERS: "Several layers could be the firmware: name one in layerSelector.",
    Reason.NO_FIRMWARE_LAYER: "No layer could be the firmware.",
    Reason.VERSION_MISMATCH: "The tag and the manifest's version annotation contradict each other.",
    Reason.NO_MATCHING_VERSION: "No tag lies in the range spec.artifact.semver.",
    Reason.RUN_STARTED: "A run of a release began, at its first ring.",
    Reason.RING_OPENED: "The devices of a ring may have the release now.",
    Reason.RING_SOAKING: "A ring's success condition holds; it has to hold for its soak.",
    Reason.RING_COMPLETED: "A ring completed: its success condition held long enough.",
    Reason.RING_SKIPPED: "A ring has no devices and is passed over, as its onEmpty says.",
    Reason.RING_FAILED: (
        "Too many devices of a ring failed: nobody is offered the release any more in this run. "
        "Release another version, go back to the stable one, or change spec.retryToken."
    ),
    Reason.ROLLBACK_STARTED: "Devices that have the release are offered another one instead.",
    Reason.NO_STABLE_RELEASE: (
        "A ring failed whose action is Rollback, and no release completed before: offers stop, as "
        "with the action Pause."
    ),
    Reason.ROLLBACK_TARGET_UNKNOWN: (
        "spec.rollback.to names no release of this rollout that can be gone back to: neither the "
        "stable one nor one of status.history that ended well."
    ),
    Reason.NOT_CONFIGURED: "spec.verify is not set: signatures are not checked.",
    Reason.VERIFYING: "The signature of the artifact is being looked for.",
    Reason.VERIFIED: "What the artifact names is signed by one of the keys.",
    Reason.SIGNATURE_ERROR: "The signature could not be checked.",
    Reason.SIGNATURE_MISSING: "The artifact is not signed. The current release continues.",
    Reason.SIGNATURE_INVALID: (
        "What should be the signature cannot be read, or does not say what a signature has to."
    ),
    Reason.SIGNATURE_OF_OTHER_DIGEST: (
        "One of the keys signed, but other content: a signature was copied, or the artifact "
        "changed."
    ),
    Reason.KEY_MISMATCH: "The artifact is signed, by none of the keys that may sign.",
    Reason.KEY_SECRET_NOT_FOUND: (
        "The Secret of spec.verify does not exist in the namespace: nothing new is released."
    ),
    Reason.KEY_SECRET_INVALID: (
        "The Secret of spec.verify does not hold public keys as it should: nothing new is released."
    ),
    Reason.KEY_UNSUPPORTED: (
        "A key in the Secret of spec.verify is of a kind that is not read, as Ed25519: nothing new "
        "is released."
    ),
    Reason.VERSION_ANNOTATION_MISSING: (
        "The manifest does not say its version, so that an old one could go by a new tag: "
        "spec.verify needs the annotation org.opencontainers.image.version."
    ),
    Reason.PRODUCT_MISMATCH: (
        "The manifest's annotation io.otaflux.product is not spec.verify.product: it is signed, "
        "but for something else."
    ),
    Reason.SERVED: "Every server uses the policy as published last.",
    Reason.NOT_SERVED_YET: "The servers do not use the policy as published last yet.",
    Reason.POLICY_REJECTED: "The servers refuse the published policy and keep the one before.",
    Reason.SCHEMA_UNSUPPORTED: "A server is too old to read the policy: update the servers.",
    Reason.SERVER_UNREACHABLE: "The servers' internal API gives no answer.",
    Reason.ARTIFACT_NOT_STORED: "The servers failed to fetch the bytes; they try again.",
    Reason.NOT_STALLED: "Nobody needs to do anything.",
    Reason.NOT_SUPPORTED: "The spec uses a field whose behaviour does not exist yet.",
    Reason.INVALID_SPEC: "The spec cannot be read, or a window never opens; the message names it.",
    Reason.POLICY_TOO_LARGE: "The policy is too large for a ConfigMap: shorten selectors or rings.",
    Reason.SIGNING_KEY_UNUSABLE: (
        "The Secret with the keys that policies are signed with is malformed or cannot be read: "
        "nothing is published, and what is published stays."
    ),
    Reason.POLICY_TAMPERED: (
        "Somebody else than the operator changed or deleted a published policy or group: servers "
        "do not use what is not signed, and it was written again."
    ),
    Reason.PUBLISHED: "The group is published to the servers.",
    Reason.NO_CONFLICT: "No other group gives a device of this one another value of a label.",
    Reason.LABEL_CONFLICT: (
        "Another group gives a device another value of a label: the first group by name wins."
    ),
}


def registry_reason(text: str) -> Reason:
    """The reason of a registry client's error, `OciError` for one that is unknown here."""
    return Reason(text) if text in Reason.__members__.values() else Reason.OCI_ERROR
