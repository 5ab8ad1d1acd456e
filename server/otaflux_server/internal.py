"""The internal API: what the operator asks, what people look at, health and metrics.

On a port of its own, never for devices. OpenAPI at `/openapi.json`, `/docs`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Response

from otaflux_policy.devices import DEVICE_ID_PATTERN, Device
from otaflux_policy.models import ContractModel
from otaflux_policy.reasons import DecisionReason
from otaflux_policy.served import ServedArtifact, ServedRollout
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.decisions import Decisions
from otaflux_server.devices import DeviceRecord, Devices
from otaflux_server.explaining import Explanation, explain
from otaflux_server.fetching import Fetcher
from otaflux_server.metrics import CONTENT_TYPE_LATEST, Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.settings import NAMESPACE_PATTERN

NamespaceParameter = Annotated[str, Path(pattern=NAMESPACE_PATTERN)]
DeviceParameter = Annotated[str, Path(pattern=DEVICE_ID_PATTERN)]


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


class ReportView(ContractModel):
    """What a device said of an update last."""

    at: datetime
    release: str
    state: str
    code: str | None
    message: str | None


class DeviceView(ContractModel):
    """A device that this server has seen."""

    namespace: str
    device: str
    protocol: str
    version: str | None
    model: str | None
    attributes: dict[str, str]
    first_seen: datetime
    last_seen: datetime
    reason: DecisionReason | None
    rollout: str | None
    ring: str | None
    offered: str | None
    downloaded: str | None
    downloaded_at: datetime | None
    report: ReportView | None


class DevicePage(ContractModel):
    """One page; `next` is the parameter `after` of the following one, None at the end."""

    devices: tuple[DeviceView, ...]
    next: str | None


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


class ReadinessDetail(ContractModel):
    """`disconnected`: why the last known policies are served (empty: they are current);
    `unsaved`: why they are not on disk (empty: they are)."""

    policies: int
    disconnected: str
    unsaved: str
    rejected: tuple[Rejection, ...]
    artifacts: tuple[ServedArtifact, ...]
    devices: int


def internal_app(
    *,
    policies: PolicyStore,
    artifacts: ArtifactStore,
    fetcher: Fetcher,
    devices: Devices,
    decisions: Decisions,
    metrics: Metrics,
    served: Callable[[str, str], ServedRollout],
    unsaved: Callable[[], str],
) -> FastAPI:
    """The application over these parts; `served` answers for one rollout."""
    app = FastAPI(title="OtaFlux update server, internal API", version="v1")

    @app.get("/internal/v1/rollouts")
    async def list_rollouts() -> list[ServedRollout]:
        """Every rollout that has a policy in use or a refused one."""
        keys = {(policy.namespace, policy.name) for policy in policies.policies()}
        keys |= {key for kind, key in policies.rejections() if kind == "policies"}
        return [served(*key) for key in sorted(keys)]

    @app.get("/internal/v1/rollouts/{namespace}/{name}")
    async def get_rollout(namespace: str, name: str) -> ServedRollout:
        """What is served for the rollout; also answered for one that is not known (any more)."""
        return served(namespace, name)

    @app.get("/internal/v1/artifacts")
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

    @app.get("/internal/v1/devices")
    async def list_devices(
        namespace: Annotated[str | None, Query(pattern=NAMESPACE_PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(max_length=256)] = None,
    ) -> DevicePage:
        """Devices seen, in order of namespace and id."""
        start = None
        if after is not None:
            owner, slash, device = after.partition("/")
            if not slash:
                raise HTTPException(422, "after: write NAMESPACE/DEVICE, as `next` gives it")
            start = (owner, device)
        records = devices.page(limit + 1, namespace=namespace, after=start)
        page, more = records[:limit], len(records) > limit
        return DevicePage(
            devices=tuple(_device(record) for record in page),
            next=f"{page[-1].device.namespace}/{page[-1].device.id}" if more else None,
        )

    @app.get("/internal/v1/devices/{namespace}/{device}")
    async def get_device(namespace: NamespaceParameter, device: DeviceParameter) -> DeviceView:
        """One device; 404 if it was not seen."""
        record = devices.get(namespace, device)
        if record is None:
            raise HTTPException(404, "this server has not seen the device")
        return _device(record)

    @app.get("/internal/v1/devices/{namespace}/{device}/explain")
    async def explain_device(
        namespace: NamespaceParameter,
        device: DeviceParameter,
        version: Annotated[str | None, Query(max_length=256)] = None,
        model: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Explanation:
        """Why the device gets what it gets; `version` and `model` try what it does not run."""
        record = devices.get(namespace, device)
        known = record.device if record is not None else Device(namespace, device)
        asked = Device(namespace, device, model or known.model, version or known.version)
        return explain(asked, record, policies.rules(namespace), decisions)

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the process runs."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", response_model_exclude_none=True)
    async def readyz(response: Response, verbose: str | None = None) -> Readiness:
        """200 once polls can be answered, from current policies or from the last known ones."""
        response.status_code = 200 if policies.ready else 503
        if verbose is None:
            return Readiness(ready=policies.ready)
        rejected = (
            Rejection(kind=kind, namespace=key[0], name=key[1], why=why)
            for (kind, key), why in sorted(policies.rejections().items())
        )
        detail = ReadinessDetail(
            policies=len(policies.policies()),
            disconnected=policies.disconnection,
            unsaved=unsaved(),
            rejected=tuple(rejected),
            artifacts=tuple(fetcher.states()),
            devices=len(devices),
        )
        return Readiness(ready=policies.ready, detail=detail)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        metrics.devices.set(len(devices))
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _device(record: DeviceRecord) -> DeviceView:
    report, transfer = record.report, record.transfer
    decision = record.cached.decision if record.cached is not None else None
    return DeviceView(
        namespace=record.device.namespace,
        device=record.device.id,
        protocol=record.protocol,
        version=record.device.version,
        model=record.device.model,
        attributes=dict(record.attributes),
        first_seen=_time(record.first_seen),
        last_seen=_time(record.last_seen),
        reason=record.reason,
        rollout=decision.rollout if decision else None,
        ring=decision.ring if decision else None,
        offered=decision.release.version if decision and decision.release else None,
        downloaded=transfer.digest if transfer else None,
        downloaded_at=_time(transfer.at) if transfer else None,
        report=None
        if report is None
        else ReportView(
            at=_time(record.reported_at or record.last_seen),
            release=report.release,
            state=report.state,
            code=report.code,
            message=report.message,
        ),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
