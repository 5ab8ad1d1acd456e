"""Valid manifests; between them they set every field of both custom resources."""

from copy import deepcopy
from typing import Any

Manifest = dict[str, Any]

_SELECTOR: Manifest = {
    "matchLabels": {"ring": "canary"},
    "matchExpressions": [
        {"key": "example.com/site", "operator": "In", "values": ["berlin", "00:1b:44:11:3a:b7"]},
        {"key": "beta", "operator": "Exists"},
    ],
    "names": ["kitchen-1", "lab-*"],
}
_DIGEST = f"sha256:{'0a' * 32}"
_TIME = "2026-01-31T10:00:00Z"


def rollout(**artifact: str) -> Manifest:
    """A FirmwareRollout with every field set; `artifact` replaces its `tag`."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": "thermostat"},
        "spec": {
            "artifact": {
                "repository": "registry.example.com/firmware/thermostat",
                **(artifact or {"tag": "1.4.0"}),
                "interval": "5m",
                "secretRef": {"name": "harbor-robot"},
                "certSecretRef": {"name": "harbor-ca"},
                "layerSelector": {
                    "mediaType": "application/octet-stream",
                    "title": "firmware.bin",
                },
                "insecure": False,
            },
            "verify": {
                "provider": "cosign",
                "secretRef": {"name": "firmware-signers"},
                "product": "thermostat",
            },
            "version": "1.4.0",
            "deviceSelector": deepcopy(_SELECTOR),
            "compatibility": {"models": ["thermostat-v2", "Acme T 2"], "minVersion": "1.2.0"},
            "priority": 0,
            "downgrade": "Forbid",
            "rings": [
                {
                    "name": "canary",
                    "deviceSelector": deepcopy(_SELECTOR),
                    "percent": 50,
                    "maxConcurrent": 50,
                    "gate": "Approval",
                    "success": {"minUpdatedPercent": 100, "minDevices": 3},
                    "failure": {"maxPercent": 20, "minSample": 3, "action": "Rollback"},
                    "soak": "1h",
                    "deadline": "48h",
                    "onEmpty": "Skip",
                },
                {"name": "early", "percent": 10},
                {"name": "half", "percent": 50, "deviceSelector": {}},
                {"name": "fleet"},
            ],
            "deviceTimeout": "24h",
            "activeWithin": "168h",
            "confirmation": "Auto",
            "approvals": [
                {"ring": "canary", "release": "1.4.0", "effect": "Gate"},
                {"ring": "fleet", "release": _DIGEST, "effect": "Override"},
            ],
            "state": "Active",
            "rollback": {"from": "1.4.0", "to": "1.3.2"},
            "windows": [
                {"schedule": "0 2 * * *", "duration": "4h", "timeZone": "Europe/Berlin"},
                {"schedule": "*/15,5-20/5 0-6 1,15 JAN-mar MON-fri", "duration": "1h30m"},
            ],
            "retryToken": "2",
            "historyLimit": 10,
        },
    }


def rollout_without_approvals() -> Manifest:
    """The same without approvals, so that its rings may be renamed."""
    manifest = rollout()
    del manifest["spec"]["approvals"]
    return manifest


def smallest_rollout() -> Manifest:
    """A FirmwareRollout with nothing but what is required."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": "small"},
        "spec": {
            "artifact": {"repository": "localhost:5000/thermostat", "tag": "latest"},
            "deviceSelector": {},
            "rings": [{"name": "fleet"}],
        },
    }


def rollout_status() -> Manifest:
    """A FirmwareRollout with every field of its status set."""
    release = {
        "version": "1.4.0",
        "digest": _DIGEST,
        "size": 1048576,
        "resolvedAt": _TIME,
        "startedAt": _TIME,
        "finishedAt": _TIME,
        "artifact": {
            "digest": _DIGEST,
            "size": 1048576,
            "mediaType": "application/octet-stream",
            "repository": "registry.example.com/firmware/thermostat",
            "insecure": False,
            "archive": {
                "digest": _DIGEST,
                "size": 1048576,
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "path": "firmware/app.bin",
            },
        },
        "compatibility": {"models": "thermostat-v2", "minVersion": "1.2.0"},
        "verification": {"key": "release.pub", "at": _TIME},
    }
    return {
        **rollout(),
        "status": {
            "observedGeneration": 1,
            "phase": "Progressing",
            "message": "Ring early soaks.",
            "run": 1,
            "handledRetryToken": "2",
            "currentRing": "early",
            "ringSummary": "2/4",
            "updatedSummary": "12/50",
            "release": deepcopy(release),
            "stableRelease": deepcopy(release),
            "candidate": deepcopy(release),
            "rings": [
                {
                    "name": "canary",
                    "phase": "Complete",
                    "devices": 3,
                    "offered": 3,
                    "updated": 3,
                    "failed": 0,
                    "openedAt": _TIME,
                    "satisfiedAt": _TIME,
                    "completedAt": _TIME,
                    "pausedSeconds": 60,
                }
            ],
            "trip": {"ring": "canary", "failed": 3, "updated": 7, "at": _TIME},
            "rollback": {
                "cause": "Failure",
                "from": "1.4.0",
                "to": "1.3.2",
                "startedAt": _TIME,
                "devices": 8,
                "restored": 6,
                "unconfirmed": 2,
            },
            "pausedAt": _TIME,
            "policy": {
                "configMap": "otaflux-policy-thermostat",
                "revision": _DIGEST,
                "servedRevision": _DIGEST,
            },
            "history": [
                {
                    "run": 1,
                    "version": "1.3.2",
                    "digest": _DIGEST,
                    "result": "Superseded",
                    "startedAt": _TIME,
                    "finishedAt": _TIME,
                    "message": "Release 1.4.0 took its place.",
                    "artifact": deepcopy(release["artifact"]),
                    "compatibility": deepcopy(release["compatibility"]),
                }
            ],
            "conditions": [_condition()],
        },
    }


def largest_rollout() -> Manifest:
    """A FirmwareRollout with as many and as long parts as its rules have to look at."""
    prefix = ".".join([*["a" * 61] * 4, "a" * 5])
    selector: Manifest = {
        "matchLabels": {f"{prefix}/{'b' * 60}-{number:02}": "c" * 128 for number in range(16)},
        "matchExpressions": [
            {"key": f"{prefix}/{'b' * 63}", "operator": "In", "values": ["c" * 128] * 50}
            for _ in range(10)
        ],
        "names": ["d" * 128] * 100,
    }
    manifest = rollout(digest=_DIGEST)
    rings = [
        {**manifest["spec"]["rings"][0], "name": f"{'r' * 60}-{number:02}"} for number in range(20)
    ]
    manifest["metadata"]["name"] = "largest"
    manifest["spec"] |= {
        "deviceSelector": selector,
        # Twenty such selectors would be larger than what etcd takes.
        "rings": [{**ring, "deviceSelector": selector} for ring in rings[:6]] + rings[6:],
        "approvals": [
            {"ring": rings[-1]["name"], "release": f"{number:02}{'v' * 254}"}
            for number in range(50)
        ],
        "windows": [{"schedule": ",".join(["59"] * 30) + " 23 31 12 7", "duration": "9h"}] * 10,
    }
    return manifest


def largest_group() -> Manifest:
    """A DeviceGroup of 10 000 devices with ids that are long, but fit an object of etcd."""
    manifest = group()
    manifest["metadata"]["name"] = "largest"
    manifest["spec"]["names"] = [f"{'d' * 115}-{number:04}" for number in range(10_000)]
    return manifest


def group() -> Manifest:
    """A DeviceGroup with every field set."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "DeviceGroup",
        "metadata": {"name": "berlin"},
        "spec": {
            "names": ["kitchen-1", "lab-*", "00:1b:44:11:3a:b7"],
            "labels": {"ring": "canary", "example.com/site": "berlin"},
            "model": "thermostat-v2",
        },
    }


def smallest_group() -> Manifest:
    """A DeviceGroup with nothing but what is required."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "DeviceGroup",
        "metadata": {"name": "small"},
        "spec": {"names": []},
    }


def group_status() -> Manifest:
    """A DeviceGroup with every field of its status set."""
    return {**group(), "status": {"observedGeneration": 1, "conditions": [_condition()]}}


def _condition() -> Manifest:
    return {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": _TIME,
        "reason": "Served",
        "message": "The release is served.",
    }


VALID: dict[str, Manifest] = {
    "a rollout by tag": rollout(),
    "a rollout by semver": rollout(semver=">=1.4.0 <2.0.0"),
    "a rollout by digest": rollout(digest=_DIGEST),
    "the smallest rollout": smallest_rollout(),
    "a group": group(),
    "the smallest group": smallest_group(),
}
"""What both doors accept."""

WITH_STATUS: dict[str, Manifest] = {
    "a rollout's status": rollout_status(),
    "a group's status": group_status(),
}
"""The same with a status, which only an API server takes, from the operator."""
