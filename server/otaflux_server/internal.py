"""The internal API: what the operator asks, what people look at, health and metrics.

On a port of its own, never for devices. OpenAPI at `/openapi.json`, `/docs`.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from otaflux_policy.contract import Digest
from otaflux_policy.devices import DEVICE_ID_PATTERN, Device
from otaflux_policy.models import ContractModel
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.served import Replica, ServedArtifact, ServedRollout
from otaflux_server.access.callers import Callers
from otaflux_server.access.guards import Guard
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.counting import Counting
from otaflux_server.decisions import Decisions
from otaflux_server.devices import Devices
from otaflux_server.explaining import Explanation, explain
from otaflux_server.fetching import Fetcher
from otaflux_server.listing import DeviceDetail, DevicePage, DeviceState, Listing, Search
from otaflux_server.metrics import CONTENT_TYPE_LATEST, Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.previewing import Preview, preview
from otaflux_server.replicas import Replicas
from otaflux_server.settings import NAMESPACE_PATTERN

NamespaceParameter = Annotated[
    str, Path(pattern=NAMESPACE_PATTERN, description="The namespace of the object or device.")
]
DeviceParameter = Annotated[str, Path(pattern=DEVICE_ID_PATTERN, description="The device id.")]
_TOKEN = "As `OTAFLUX_INTERNAL__AUTHENTICATION` says: a ServiceAccount's token, or the shared one."
RolloutParameter = Annotated[str, Path(max_length=253, description="The rollout's name.")]


class StoredArtifactView(ContractModel):
    """An artifact on this server's disk. `size` in bytes, `crc32` as a number."""

    digest: str
    size: int
    crc32: int
    md5: str
    sha1: str


class Artifacts(ContractModel):
    """What policies list, and what is stored (the least recently used first)."""

    wanted: tuple[ServedArtifact, ...]
    stored: tuple[StoredArtifactView, ...]


class DeviceQuery(BaseModel):
    """What devices are listed."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    namespace: Annotated[str, Field(pattern=NAMESPACE_PATTERN)] | None = Field(
        None, description="The namespace of the devices; unset: all."
    )
    rollout: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="The rollout that has the device."
    )
    ring: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The ring that the device counts in."
    )
    group: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="A DeviceGroup that the device is in."
    )
    reason: DecisionReason | None = Field(None, description="Of the last answer of this server.")
    state: DeviceState | None = Field(
        None, description="How far the device is with its rollout's release."
    )
    version: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="What the device says that it runs."
    )
    model: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="As the device says, else as its groups say."
    )
    seen_within: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Seconds; only devices that were heard of since."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Devices on a page.")
    after: Annotated[str, Field(max_length=256, pattern="/")] | None = Field(
        None, description="`next` of the page before."
    )

    def search(self, now: float) -> Search:
        """The search, at `now` in seconds since 1970."""
        return Search(
            namespace=self.namespace,
            rollout=self.rollout,
            ring=self.ring,
            group=self.group,
            reason=self.reason,
            state=self.state,
            version=self.version,
            model=self.model,
            seen_since=None if self.seen_within is None else now - self.seen_within,
        )


class Refused(BaseModel):
    """Why the caller is not let in, or gets nothing."""

    model_config = ConfigDict(extra="forbid")

    detail: str


_NOT_KNOWN: dict[int | str, dict[str, object]] = {
    404: {"model": Refused, "description": "There is nothing of that name."}
}


class Rejection(ContractModel):
    """Something published that is refused: the last good form of it stays in use."""

    kind: str
    namespace: str
    name: str
    why: str


class Readiness(ContractModel):
    """Whether polls can be answered. `detail` is given with `?verbose`."""

    ready: bool
    detail: "ReadinessDetail | None" = None


class EvidenceDetail(ContractModel):
    """How it is with the record of what devices did. Readiness never depends on it.

    `loaded`: what the database holds is known; until then every device gets `Hold`, and nothing
    is counted. `settled`: all devices are counted by the policies in use. `waiting` facts are not
    written yet, nor are `waiting_trips`; `dropped` found no room since the start, and `refused`
    no database takes. `failure`: why facts wait (empty: they do not); `replicas`: why the other
    replicas are not known (empty: they are, or there are none).
    """

    loaded: bool
    settled: bool
    waiting: int
    waiting_trips: int
    dropped: int
    refused: int
    failure: str
    replicas: str


class ReadinessDetail(ContractModel):
    """`disconnected`: why the last known policies are served (empty: they are current);
    `unsaved`: why they are not on disk (empty: they are)."""

    policies: int
    disconnected: str
    unsaved: str
    rejected: tuple[Rejection, ...]
    artifacts: tuple[ServedArtifact, ...]
    devices: int
    evidence: EvidenceDetail


def internal_app(
    *,
    policies: PolicyStore,
    artifacts: ArtifactStore,
    fetcher: Fetcher,
    devices: Devices,
    decisions: Decisions,
    counting: Counting,
    replicas: Replicas,
    metrics: Metrics,
    served: Callable[[str, str], ServedRollout],
    listening: Callable[[], bool],
    unsaved: Callable[[], str],
    evidence: Callable[[], EvidenceDetail],
    callers: Callers | None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """The application over these parts; `served` answers for one rollout and all replicas.

    `listening`: devices can connect. `callers`: who may use it, but for health and metrics; None:
    everybody.
    """
    app = FastAPI(title="OtaFlux update server, internal API", version="v1")
    app.add_middleware(Guard, callers=callers, metrics=metrics)
    # The guard looks at tokens; here they are for the OpenAPI document alone.
    api = APIRouter(
        dependencies=[Depends(HTTPBearer(auto_error=False, description=_TOKEN))],
        responses={
            401: {"model": Refused, "description": "No token, or one that is not taken."},
            403: {"model": Refused, "description": "The token of somebody who may not use it."},
            503: {"model": Refused, "description": "The token cannot be checked now."},
        },
    )
    listing = Listing(devices, policies, counting, decisions, clock)
    # One at a time: each takes its slices of the event loop that polls are answered on.
    searching = asyncio.Lock()

    @api.get("/internal/v1/rollouts")
    async def list_rollouts() -> list[ServedRollout]:
        """Every rollout that has a policy in use or a refused one, with its counts."""
        keys = {(policy.namespace, policy.name) for policy in policies.policies()}
        keys |= {key for kind, key in policies.rejections() if kind == "policies"}
        return [served(*key) for key in sorted(keys)]

    @api.get("/internal/v1/rollouts/{namespace}/{name}")
    async def get_rollout(namespace: NamespaceParameter, name: RolloutParameter) -> ServedRollout:
        """What all replicas serve of the rollout, how far its devices are, and its breaker.

        Also answered for a rollout that is not known (any more).
        """
        return served(namespace, name)

    @api.get("/internal/v1/rollouts/{namespace}/{name}/preview", responses=_NOT_KNOWN)
    async def preview_rollout(
        namespace: NamespaceParameter,
        name: RolloutParameter,
        limit: Annotated[int, Query(ge=0, le=1000, description="Ids that are named of each.")] = 20,
        digest: Annotated[
            Digest | None, Query(description="Tries another manifest digest.")
        ] = None,
    ) -> Preview:
        """Which known devices each ring would take, also before anything is released.

        For the candidate's shares, else the target's, else the stable release's; 404 for a
        rollout without a policy in use.
        """
        rules = policies.rules(namespace)
        policy = policies.policy(namespace, name)
        if policy is None:
            raise HTTPException(404, "no policy of the rollout is in use")
        async with searching:
            keys = devices.keys()
            records = (devices.get(*key) for key in keys)
            return await preview(
                policy,
                rules,
                (record for record in records if record is not None),
                counting.counted,
                clock(),
                limit=limit,
                digest=digest,
            )

    @api.get("/internal/v1/replicas")
    async def list_replicas() -> list[Replica]:
        """The servers that share the database, and what each serves and stores."""
        return replicas.all()

    @api.get("/internal/v1/artifacts")
    async def list_artifacts() -> Artifacts:
        """The artifact store."""
        return Artifacts(
            wanted=tuple(fetcher.states()),
            stored=tuple(
                StoredArtifactView(
                    digest=artifact.digest,
                    size=artifact.size,
                    crc32=artifact.crc32,
                    md5=artifact.md5,
                    sha1=artifact.sha1,
                )
                for artifact in artifacts.all()
            ),
        )

    @api.get("/internal/v1/devices")
    async def list_devices(
        search: Annotated[DeviceQuery, Query()],
    ) -> DevicePage:
        """Known devices, in order of namespace and id; only those that fit every parameter."""
        start = None
        if search.after is not None:
            owner, _, device = search.after.partition("/")
            start = (owner, device)
        async with searching:
            return await listing.page(search.search(clock()), search.limit, start)

    @api.get("/internal/v1/devices/{namespace}/{device}", responses=_NOT_KNOWN)
    async def get_device(namespace: NamespaceParameter, device: DeviceParameter) -> DeviceDetail:
        """One device with its attempts and their facts; 404 if it is not known."""
        record = devices.get(namespace, device)
        if record is None:
            raise HTTPException(404, "the device was never seen")
        return listing.detail(record)

    @api.get("/internal/v1/devices/{namespace}/{device}/explain")
    async def explain_device(
        namespace: NamespaceParameter,
        device: DeviceParameter,
        version: Annotated[
            str | None, Query(max_length=256, description="A version that it might run.")
        ] = None,
        model: Annotated[
            str | None, Query(max_length=256, description="A model that it might be.")
        ] = None,
    ) -> Explanation:
        """Why the device gets what it gets, every rule looked at, and what it waits for.

        `version` and `model` try what it does not run.
        """
        record = devices.get(namespace, device)
        known = record.device if record is not None else Device(namespace, device)
        digest = known.digest if version is None else None
        asked = Device(namespace, device, model or known.model, version or known.version, digest)
        now = datetime.fromtimestamp(clock(), UTC)
        return explain(asked, record, policies.rules(namespace), decisions, counting, now)

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        """Whether the process runs."""
        return PlainTextResponse("ok\n")

    @app.get(
        "/readyz",
        response_model_exclude_none=True,
        responses={503: {"model": Readiness, "description": "They cannot (yet)."}},
    )
    async def readyz(
        response: Response,
        verbose: Annotated[str | None, Query(description="Given at all: with the detail.")] = None,
    ) -> Readiness:
        """200 once polls can be answered, from current policies or from the last known ones."""
        ready = policies.ready and listening()
        response.status_code = 200 if ready else 503
        if verbose is None:
            return Readiness(ready=ready)
        rejected = (
            Rejection(kind=kind, namespace=key[0], name=key[1], why=found.why)
            for (kind, key), found in sorted(policies.rejections().items())
        )
        detail = ReadinessDetail(
            policies=len(policies.policies()),
            disconnected=policies.disconnection,
            unsaved=unsaved(),
            rejected=tuple(rejected),
            artifacts=tuple(fetcher.states()),
            devices=len(devices),
            evidence=evidence(),
        )
        return Readiness(ready=ready, detail=detail)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        metrics.devices.set(len(devices))
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(api)
    return app
