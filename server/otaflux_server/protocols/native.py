"""The native protocol of OtaFlux: `/version`, then `/firmware`.

    GET /version?device=ID[&version=V][&model=M]  →  "<version>\\n<crc32>\\n<size>", decimal
    GET /firmware?device=ID                       →  the bytes that /version announced, or 404

Its clients read with 256 bytes of room, never look at the status and know no chunked bodies
(`docs/architecture.md`). No update is 404.
"""

from collections.abc import Mapping
from dataclasses import replace

from typing_extensions import override

from otaflux_policy.contract import Release
from otaflux_policy.decisions import Decision
from otaflux_policy.reasons import DecisionReason
from otaflux_server.artifacts import StoredArtifact
from otaflux_server.devices import DeviceRecord
from otaflux_server.downloads import artifact_reply
from otaflux_server.fleet import Asking, Fleet
from otaflux_server.operations import (
    BYTES,
    DEVICE,
    MODEL,
    RANGE,
    TEXT_ERROR,
    VERSION,
    Answer,
    Content,
    Operation,
)
from otaflux_server.protocols import Download, Exchange, Poll
from otaflux_server.replies import Refused, Reply, small
from otaflux_server.requests import Request

NAME = "native"
SMALLEST = 10
"""All builds of the client divide by a tenth of the size: with fewer bytes they panic."""

_MAX_TEXT = 256
_MAX_ANSWERS = 1024
_ANSWER = Content("text/plain", {"type": "string", "pattern": r"^[^\n]+\n[0-9]+\n[0-9]+$"})


def exchanges(fleet: Fleet) -> Mapping[str, Exchange]:
    """The protocol's paths."""
    return {"/version": VersionPoll(fleet), "/firmware": FirmwareDownload(fleet)}


class VersionPoll(Poll):
    """Version, CRC32 and size. A GET pins the device to its answer; a HEAD pins nothing."""

    protocol = NAME
    methods = frozenset({"GET", "HEAD"})
    at_once = True
    pins = True
    described = Operation(
        query=(DEVICE, VERSION, MODEL),
        answers={
            200: Answer("The version, the CRC-32 and the size of its bytes, a line each.", _ANSWER),
            404: Answer("No update.", TEXT_ERROR),
        },
    )

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._answers: dict[tuple[str, str], Reply] = {}

    @override
    def identify(self, request: Request) -> Asking:
        return Asking(
            request.namespace,
            request.device(self.fleet.settings.native.default_device),
            request.text_parameter("version", _MAX_TEXT),
            request.text_parameter("model", _MAX_TEXT),
        )

    @override
    def decide(self, record: DeviceRecord, *, slot: bool = True) -> Decision:
        """What the device gets, unless its client cannot read or take it."""
        decision = self.fleet.decide(record, slot=slot)
        release = decision.release
        if release is not None and obstacle(release, self.fleet.stored(record)):
            return replace(decision, release=None, reason=DecisionReason.ARTIFACT_UNAVAILABLE)
        return decision

    @override
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        release = decision.release
        artifact = None if release is None else self.fleet.stored(record)
        if request.method == "GET":
            self.fleet.pin(record, artifact)
        if release is None or artifact is None:
            return self.refuse(Refused(404, f"no update ({decision.reason.value})"))
        key = (release.version, artifact.digest)
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            body = f"{release.version}\n{artifact.crc32}\n{artifact.size}".encode()
            answer = self._answers[key] = small(200, b"text/plain", body)
        return answer


class FirmwareDownload(Download):
    """The pinned bytes, as long as the device would get the same now."""

    protocol = NAME
    described = Operation(
        query=(DEVICE,),
        headers=RANGE,
        answers={**BYTES, 404: Answer("Nothing to download: ask `/version` first.", TEXT_ERROR)},
    )

    @override
    def identify(self, request: Request) -> Asking:
        return Asking(request.namespace, request.device(self.fleet.settings.native.default_device))

    @override
    async def prepare(self, record: DeviceRecord) -> None:
        """Another server may have told the device what to fetch."""
        await super().prepare(record)
        if self.fleet.shared:
            self.fleet.decide(record)
            if self.fleet.pinned(record) is None:
                await self.fleet.read(record)

    @override
    def wanted(self, request: Request, record: DeviceRecord) -> StoredArtifact | None:
        return self.fleet.pinned(record)

    @override
    def answer(self, request: Request, record: DeviceRecord, decision: Decision) -> Reply:
        artifact = self.wanted(request, record)
        if artifact is None:
            why = f"nothing to download ({decision.reason.value}), ask /version first"
            return self.refuse(Refused(404, why))
        return artifact_reply(request, artifact, close=True)


def obstacle(release: Release, artifact: StoredArtifact | None) -> str:
    """Why clients of this protocol cannot take the release; empty: they can."""
    if artifact is None:
        return "the artifact is not stored"
    if artifact.size < SMALLEST:
        return f"the artifact has {artifact.size} bytes, with less than {SMALLEST} clients panic"
    if not release.version.isprintable():
        return "the version holds what is not printable: it would shift the lines of the answer"
    return ""
