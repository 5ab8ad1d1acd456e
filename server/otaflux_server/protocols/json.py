"""The JSON protocol, for whoever writes a client tomorrow.

    POST /api/v1/poll    {"device", "version"?, "model"?, "attributes"?}
      → {"update": null | {"version", "digest", "size", "sha256", "crc32", "md5", "url"},
         "reason", "pollAfterSeconds"}
    POST /api/v1/report  {"device", "release", "state", "code"?, "message"?}  →  {}
    GET  /artifacts/sha256/<hex>?device=ID[&version=V][&model=M]

`device` may be left out where the device's certificate or token is that of one device alone.
`update` is null where the device reports the version that it would get. `digest` is that of the
release, `sha256` and the others are of the bytes behind `url`; `crc32` is a number. A report's
`release` is a version or digest. Fields that are not known here are ignored. In a download,
version and model count only for a device that did not poll since the server was started.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from typing_extensions import override

from otaflux_policy import versions
from otaflux_policy.contract import Release
from otaflux_policy.decisions import Decision
from otaflux_policy.devices import Device
from otaflux_policy.reasons import DecisionReason
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.devices import DeviceRecord, Report
from otaflux_server.downloads import artifact_reply
from otaflux_server.fleet import Asking, Fleet
from otaflux_server.operations import (
    BYTES,
    DEVICE,
    JSON_ERROR,
    MODEL,
    RANGE,
    VERSION,
    Answer,
    Content,
    Operation,
    Value,
    fields,
    text,
)
from otaflux_server.protocols import Download, Exchange, Poll
from otaflux_server.replies import CLOSE, Refused, Reply, small
from otaflux_server.requests import Request, check_text

NAME = "json"
STATES = ("Downloading", "Downloaded", "Installing", "Updated", "Failed")

_ARTIFACTS = "/artifacts/sha256/"
_HEX = re.compile(r"[0-9a-f]{64}")
_JSON = b"application/json"
_MAX_TEXT = 256
_MAX_MESSAGE = 1024
_MAX_ATTRIBUTES = 32
_MAX_ATTRIBUTES_TEXT = 4096


_DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 0}
_UPDATE = fields(
    Value("version", {"type": "string"}, "The release's version.", required=True),
    Value("digest", _DIGEST, "The release's digest.", required=True),
    Value("size", _COUNT, "Of the bytes.", required=True),
    Value("sha256", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "Likewise.", required=True),
    Value("crc32", _COUNT, "Likewise.", required=True),
    Value("md5", {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "Likewise.", required=True),
    Value("url", {"type": "string", "format": "uri"}, "Where the bytes are.", required=True),
)
_POLLED = fields(
    Value("update", {"anyOf": [{"type": "null"}, _UPDATE]}, "What to install.", required=True),
    Value("reason", {"enum": [reason.value for reason in DecisionReason]}, "Why.", required=True),
    Value(
        "pollAfterSeconds", {"type": "integer", "minimum": 1}, "When to ask again.", required=True
    ),
)
_ATTRIBUTES = {
    "type": "object",
    "maxProperties": _MAX_ATTRIBUTES,
    "propertyNames": text(_MAX_TEXT),
    "additionalProperties": text(_MAX_TEXT),
}


def exchanges(fleet: Fleet) -> Mapping[str, Exchange]:
    """The protocol's paths."""
    return {
        "/api/v1/poll": JsonPoll(fleet),
        "/api/v1/report": JsonReport(fleet),
        _ARTIFACTS: ArtifactDownload(fleet),
    }


class JsonPoll(Poll):
    """Tells the device its update, or why it has none, and when to ask again."""

    protocol = NAME
    methods = frozenset({"POST"})
    reads_body = True
    described = Operation(
        body=(
            DEVICE,
            VERSION,
            MODEL,
            Value("attributes", _ATTRIBUTES, "What else is to be shown of the device."),
        ),
        answers={200: Answer("What the device gets.", Content("application/json", _POLLED))},
        error=JSON_ERROR,
    )

    @override
    def identify(self, request: Request) -> Asking:
        body = request.json()
        return Asking(
            request.namespace,
            request.named_device(body.get("device")),
            version=_optional(body, "version", _MAX_TEXT),
            model=_optional(body, "model", _MAX_TEXT),
            attributes=_attributes(body.get("attributes")),
        )

    @override
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        update = None
        release = decision.release
        artifact = self.fleet.stored(record)
        if release is not None and artifact is not None and not _runs(record, release):
            update = self._update(request, record, release, artifact)
        return _json_reply(
            200,
            {
                "update": update,
                "reason": decision.reason.value,
                "pollAfterSeconds": self.fleet.settings.poll_after_seconds,
            },
        )

    def _update(
        self, request: Request, record: DeviceRecord, release: Release, artifact: StoredArtifact
    ) -> dict[str, object]:
        base = request.base_url(self.fleet.settings.public_url)
        return {
            "version": release.version,
            "digest": release.digest,
            "size": artifact.size,
            "sha256": artifact.sha256,
            "crc32": artifact.crc32,
            "md5": artifact.md5,
            "url": f"{base}{_ARTIFACTS}{artifact.sha256}?{_query(record.device)}",
        }

    @override
    def refuse(self, refused: Refused) -> Reply:
        return _json_refusal(refused)


class JsonReport(Exchange):
    """Takes note of how far the device is with a release."""

    protocol = NAME
    methods = frozenset({"POST"})
    reads_body = True
    described = Operation(
        body=(
            DEVICE,
            Value("release", text(_MAX_TEXT), "Its version or digest.", required=True),
            Value("state", {"enum": list(STATES)}, "How far the device is.", required=True),
            Value("code", text(_MAX_TEXT), "A word for what went wrong."),
            Value("message", {"type": "string", "maxLength": _MAX_MESSAGE}, "More about it."),
        ),
        answers={200: Answer("Taken note of.", Content("application/json", fields()))},
        error=JSON_ERROR,
    )

    @override
    def identify(self, request: Request) -> Asking:
        body = request.json()
        state = body.get("state")
        if state not in STATES:
            raise Refused(400, f"must be one of {', '.join(STATES)}", field="state")
        message = body.get("message")
        if message is not None and not (isinstance(message, str) and len(message) <= _MAX_MESSAGE):
            raise Refused(
                400, f"must be text of at most {_MAX_MESSAGE} characters", field="message"
            )
        report = Report(
            release=check_text("release", body.get("release"), _MAX_TEXT),
            state=state,
            code=_optional(body, "code", _MAX_TEXT),
            message=None if message is None else _shown(message),
        )
        return Asking(request.namespace, request.named_device(body.get("device")), report=report)

    @override
    def observe(self, asking: Asking) -> DeviceRecord:
        return self.fleet.notice(self.protocol, asking)

    @override
    def begins(self, request: Request, record: DeviceRecord, decision: Decision) -> bool:
        return False

    @override
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        return _json_reply(200, {})

    @override
    def record(
        self, request: Request, record: DeviceRecord, decision: Decision, reply: Reply, sent: int
    ) -> None:
        self.fleet.reported(record)

    @override
    def refuse(self, refused: Refused) -> Reply:
        return _json_refusal(refused)


class ArtifactDownload(Download):
    """Bytes by their own digest, if they are what the device would get now."""

    protocol = NAME
    described = Operation(
        below=Value(
            "hex", {"type": "string", "pattern": f"^{_HEX.pattern}$"}, "SHA-256 of the bytes."
        ),
        query=(DEVICE, VERSION, MODEL),
        headers=RANGE,
        answers={**BYTES, 404: Answer("The device does not get this artifact.", JSON_ERROR)},
        error=JSON_ERROR,
    )

    @override
    def identify(self, request: Request) -> Asking:
        return Asking(
            request.namespace,
            request.device(),
            request.text_parameter("version", _MAX_TEXT),
            request.text_parameter("model", _MAX_TEXT),
        )

    @override
    def wanted(self, request: Request, record: DeviceRecord) -> StoredArtifact | None:
        digest = request.path.removeprefix(_ARTIFACTS)
        artifact = self.fleet.stored(record)
        if not _HEX.fullmatch(digest) or artifact is None or artifact.sha256 != digest:
            return None
        return artifact

    @override
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        artifact = self.wanted(request, record)
        if artifact is None:
            return self.refuse(
                Refused(404, f"the device does not get this artifact ({decision.reason.value})")
            )
        return artifact_reply(request, artifact, close=False)

    @override
    def refuse(self, refused: Refused) -> Reply:
        return _json_refusal(refused)


def _query(device: Device) -> str:
    """Who downloads; and what it said of itself, for a server that was restarted meanwhile."""
    said = {"device": device.id, "version": device.version, "model": device.model}
    known = {name: text for name, text in said.items() if text is not None}
    return urlencode(known, safe=":", quote_via=quote)


def _runs(record: DeviceRecord, release: Release) -> bool:
    device = record.device
    return device.digest == release.digest or versions.same(device.version, release.version)


def _optional(body: Mapping[str, Any], name: str, limit: int) -> str | None:
    value = body.get(name)
    return None if value is None else check_text(name, value, limit)


def _attributes(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MAX_ATTRIBUTES:
        raise Refused(
            400, f"must be an object of at most {_MAX_ATTRIBUTES} texts", field="attributes"
        )
    found = {
        check_text("attributes", name, _MAX_TEXT): check_text("attributes", text, _MAX_TEXT)
        for name, text in value.items()
    }
    if sum(len(name) + len(text) for name, text in found.items()) > _MAX_ATTRIBUTES_TEXT:
        raise Refused(
            400, f"must have at most {_MAX_ATTRIBUTES_TEXT} characters in all", field="attributes"
        )
    return found


def _shown(message: str) -> str:
    """The text without what terminals obey and encodings refuse; a report is worth keeping."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in message
    )


def _json_reply(status: int, content: object, *headers: tuple[bytes, bytes]) -> Reply:
    return small(status, _JSON, json.dumps(content, separators=(",", ":")).encode(), *headers)


def _json_refusal(refused: Refused) -> Reply:
    content = {"error": refused.message}
    if refused.field:
        content["field"] = refused.field
    return _json_reply(refused.status, content, *refused.headers, CLOSE)
