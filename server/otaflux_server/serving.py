"""The update server as a whole: its parts put together, two ports in one event loop."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import structlog

from otaflux_policy.assessing import Spans
from otaflux_policy.contract import SCHEMA_VERSION
from otaflux_policy.served import Replica, ServedRollout
from otaflux_server.access import choosing as access
from otaflux_server.access.protocols import internal_protocol
from otaflux_server.artifacts import ArtifactStore
from otaflux_server.background import RESTART_SECONDS, end, kept
from otaflux_server.connections import Connections
from otaflux_server.counting import Counting
from otaflux_server.decisions import Decisions
from otaflux_server.device_app import DeviceApp
from otaflux_server.devices import Devices
from otaflux_server.evidence.claiming import Claimer
from otaflux_server.evidence.databases import newest_schema
from otaflux_server.evidence.recording import Recorder
from otaflux_server.evidence.stores import Store
from otaflux_server.fetching import ArtifactSource, Fetcher
from otaflux_server.fleet import Fleet
from otaflux_server.http import protocol_class, sweep
from otaflux_server.identities.choosing import identifier
from otaflux_server.internal import EvidenceDetail, internal_app
from otaflux_server.learning import Learning
from otaflux_server.listeners import Listener, Security, listen, stop_all
from otaflux_server.loading import Loader
from otaflux_server.metrics import EvidenceState, Metrics
from otaflux_server.offers import Database
from otaflux_server.policies import PolicySource, PolicyStore
from otaflux_server.policy_files import PolicyFiles
from otaflux_server.refusals import Refusals
from otaflux_server.registries import PullCredentials, RegistrySources
from otaflux_server.replicas import Replicas, served_policy
from otaflux_server.retaining import Retention
from otaflux_server.settings import Settings
from otaflux_server.slices import collect_often
from otaflux_server.throttles import Throttle
from otaflux_server.tls.ports import tls_port

log = structlog.get_logger(__name__)

_LOAD_SECONDS = 10.0
"""Devices are first listened to when the evidence is loaded, but at the latest then."""


class DataDirInUse(Exception):
    """Another update server works on the same data directory."""


class UpdateServer:
    """`async with UpdateServer(settings, source=…) as server:` serves until the block ends.

    `source` feeds `policies`; None: the caller does. `artifact_source` gives artifacts; None:
    registries, with `credentials`. Everything runs on the loop that enters the block.

    Raises:
        IdentityUnset: the settings do not say how devices prove who they are.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: PolicySource | None = None,
        artifact_source: ArtifactSource | None = None,
        credentials: PullCredentials | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.credentials = credentials or PullCredentials()
        self._source = source
        self._files = PolicyFiles(settings.data_dir)
        self.policies = PolicyStore(
            self.metrics, self._files, keys=source.keys if source is not None else None
        )
        self.artifacts = ArtifactStore(
            settings.data_dir / "artifacts", settings.artifacts, self.metrics
        )
        self._fetcher = Fetcher(
            self.artifacts,
            artifact_source
            or RegistrySources(
                self.credentials,
                settings.registries,
                max_artifact_bytes=settings.artifacts.max_artifact_bytes,
            ),
            settings.artifacts,
            self.metrics,
        )
        self._started_at = datetime.now(UTC)
        self._name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._database_schema = newest_schema()
        self.identifier = identifier(
            settings, lambda namespace: self.policies.rules(namespace).groups, self.metrics
        )
        self._build_evidence()
        self.policies.subscribe(self._want)
        self.artifacts.subscribe(self._fetcher.refresh)
        self.credentials.subscribe(self._fetcher.retry_now)
        self.refusals = Refusals(self.metrics)
        self.connections = Connections(
            settings.connections, settings.identity.trusted_peers, self.metrics
        )
        throttle = Throttle(settings.connections, self.connections.is_shared)
        self.device_app = DeviceApp(self.fleet, self.identifier, self.refusals, throttle)
        self._callers = access.callers(settings)
        self.internal_app = internal_app(
            policies=self.policies,
            artifacts=self.artifacts,
            fetcher=self._fetcher,
            devices=self.devices,
            decisions=self.decisions,
            counting=self.counting,
            replicas=self.replicas,
            metrics=self.metrics,
            served=self.served,
            listening=lambda: bool(self.device_url),
            unsaved=lambda: self._files.failure,
            evidence=self._evidence_detail,
            callers=self._callers,
        )
        self._exit = contextlib.AsyncExitStack()
        self.device_url = ""
        """`http://HOST:PORT`, or `https:` with TLS, while serving."""
        self.internal_url = ""

    def _build_evidence(self) -> None:
        options = self.settings.evidence
        url = self.settings.evidence_url
        shared = url.startswith("postgresql")
        spans = Spans(
            install_grace=timedelta(seconds=options.install_grace_seconds),
            poll_gap=timedelta(seconds=options.poll_gap_seconds),
            request_within=timedelta(seconds=options.request_within_seconds),
        )
        self._store = Store(url)
        self.recorder = Recorder(
            self._store,
            interval=options.batch_seconds,
            rows=options.batch_rows,
            capacity=options.buffer_rows,
            contact_interval=options.contact_seconds,
        )
        self._claimer = Claimer(self._store)
        self.devices = Devices(self.settings.max_devices)
        self.counting = Counting(
            self.policies,
            spans=spans,
            scan_seconds=self.settings.scan_seconds,
            store=self._store,
        )
        self.decisions = Decisions(
            self.policies, self.artifacts, spans=spans, counts=self.counting, loaded=False
        )
        self._learning = Learning(
            self.policies,
            self.decisions,
            self.recorder,
            self.counting,
            contact_seconds=options.contact_seconds,
            pin_seconds=self.settings.pin_seconds,
        )
        self.fleet = Fleet(
            self.decisions,
            self.devices,
            self.artifacts,
            self.policies,
            self._learning,
            self.counting,
            Database(
                claimer=self._claimer,
                store=self._store,
                recorder=self.recorder,
                shared=shared,
            ),
            self.settings,
            self.metrics,
        )
        self.counting.subscribe(lambda _namespace, _rollout: self.fleet.rules_changed())
        self._loader = Loader(
            url,
            self._store,
            self.devices,
            self._learning,
            self.counting,
            self.policies,
            self._evidence_loaded,
            shared=shared,
            refresh_seconds=options.refresh_seconds,
        )
        self.replicas = Replicas(
            self._store if shared else None, self._own, interval=options.heartbeat_seconds
        )
        self._retention = Retention(
            self._store,
            self.policies,
            self.devices,
            self.counting.changed,
            days=options.retention_days,
        )
        self.policies.subscribe(self.replicas.soon)
        self.artifacts.subscribe(self.replicas.soon)
        self.metrics.watch_evidence(self.evidence_state)

    def served(self, namespace: str, name: str) -> ServedRollout:
        """What is served for the rollout, as the internal API tells the operator."""
        policy = self.policies.policy(namespace, name)
        digests = dict.fromkeys(
            artifact.digest
            for release in (policy.releases if policy is not None else ())
            for artifact in release.artifacts
        )
        newest = self._learning.newest_runs.get((namespace, name), 0)
        own = ServedRollout(
            namespace=namespace,
            name=name,
            revision=policy.revision if policy is not None else None,
            rejected=self.policies.rejected(namespace, name),
            rejection=self.policies.rejection(namespace, name),
            run=max(self.policies.run(namespace, name), newest),
            schema_versions=(SCHEMA_VERSION,),
            policy_keys=self.policies.key_ids,
            epoch=self.policies.epoch,
            artifacts=tuple(self._fetcher.state(digest) for digest in digests),
            counts=self.counting.counts(namespace, name),
            trip=self.counting.trip(namespace, name),
        )
        return self.replicas.merge(own, policy)

    def evidence_state(self) -> EvidenceState:
        """How it is with the record of what devices did."""
        counters = self.recorder.counters
        return EvidenceState(
            loaded=self._loader.is_loaded,
            waiting=self.recorder.waiting,
            written=counters.written,
            dropped=counters.dropped,
            refused=counters.refused,
            failures=counters.failures,
            failure=self.recorder.failure or self._loader.failure or "",
            last_write=counters.last_write,
        )

    def _evidence_detail(self) -> EvidenceDetail:
        state = self.evidence_state()
        return EvidenceDetail(
            loaded=state.loaded,
            settled=self.counting.settled,
            waiting=state.waiting,
            waiting_trips=self.counting.breakers.unwritten,
            dropped=state.dropped,
            refused=state.refused,
            failure=state.failure,
            replicas=self.replicas.failure,
        )

    def _evidence_loaded(self, restored_at: datetime | None) -> None:
        self.decisions.loaded = True
        self.counting.loaded(restored_at)
        self.fleet.rules_changed()
        self.replicas.soon()

    def _own(self) -> Replica:
        return Replica(
            name=self._name,
            started_at=self._started_at,
            seen_at=datetime.now(UTC),
            database_schema=self._database_schema,
            schema_versions=(SCHEMA_VERSION,),
            policy_keys=self.policies.key_ids,
            epoch=self.policies.epoch,
            policies=tuple(served_policy(policy) for policy in self.policies.policies()),
            artifacts=tuple(self._fetcher.states()),
        )

    async def __aenter__(self) -> Self:
        """Raises DataDirInUse, TlsUnusable, OSError (the data directory or an address)."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_locked(self.settings))
            device_tls = tls_port("device", self.settings.tls, self.metrics)
            internal_tls = tls_port("internal", self.settings.internal.tls, self.metrics)
            self.artifacts.load()
            self.policies.load()
            await self.identifier.start()
            stack.callback(self._files.close)
            stack.push_async_callback(end, kept("policy files", self._files.run))
            stack.push_async_callback(self._fetcher.close)
            self._fetcher.start()
            stack.push_async_callback(self._store.close)
            await stack.enter_async_context(self.recorder)
            await stack.enter_async_context(self._claimer)
            await stack.enter_async_context(self.counting)
            for name, running in (
                ("evidence", self._loader.run),
                ("fleet", self.fleet.run),
                ("replicas", self.replicas.run),
                ("retention", self._retention.run),
                ("garbage", collect_often),
                ("identities", self.identifier.run),
            ):
                stack.push_async_callback(end, kept(name, running))
            if self._source is not None:
                source = asyncio.create_task(self._follow(self._source), name="policy source")
                stack.push_async_callback(end, source)
            if self._callers is not None:
                stack.push_async_callback(self._callers.close)
            access.warn_if_open(self.settings)
            servers: list[Listener] = []
            stack.push_async_callback(stop_all, servers)
            grace = self.settings.shutdown_seconds
            internal = await listen(
                self.settings.internal_listen,
                self.internal_app,
                internal_protocol(internal_tls, self.metrics),
                servers,
                grace_seconds=grace,
                security=None if internal_tls is None else Security(internal_tls),
            )
            self.internal_url = internal.url
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_SECONDS):
                    await self._loader.tried.wait()
            limits = self.settings.connections
            devices = await listen(
                self.settings.listen,
                self.device_app,
                protocol_class(
                    limits, self.connections, self.refusals, self.device_app.at_once, device_tls
                ),
                servers,
                grace_seconds=grace,
                security=device_tls
                if device_tls is None
                else Security(device_tls, self.connections.admit, self.connections.left),
            )
            self.device_url, state = devices.url, devices.server_state
            sweeping = kept("sweep", lambda: sweep(state, limits))
            stack.push_async_callback(end, sweeping)
            self._exit = stack.pop_all()
        log.info("serving", devices=self.device_url, internal=self.internal_url)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.aclose()
        log.info("stopped")

    def _want(self) -> None:
        self._fetcher.want(
            artifact
            for policy in self.policies.policies()
            for release in policy.releases
            for artifact in release.artifacts
        )

    async def _follow(self, source: PolicySource) -> None:
        while True:
            try:
                await source.run(self.policies)
            except Exception as error:  # a fault of ours: the last known policies go on
                log.exception("the policy source failed")
                self.policies.disconnected(f"the policy source failed ({type(error).__name__})")
            else:
                self.policies.disconnected("the policy source ended")
            await asyncio.sleep(RESTART_SECONDS)


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirInUse(
                f"another update server works on {settings.data_dir}: give each its own "
                "OTAFLUX_DATA_DIR"
            ) from None
        yield
    finally:
        os.close(handle)
