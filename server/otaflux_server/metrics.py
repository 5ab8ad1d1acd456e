"""The server's metrics (`/metrics`). No label ever holds a device id."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """How it is with the record of what devices did; counts since the start.

    `loaded`: what the database holds is in memory. `waiting` rows are not written yet, `dropped`
    ones found no room, `refused` ones no database takes. `failure` says why rows wait or the
    database cannot be read (empty: it can), `last_write` is in seconds since 1970 (0: never).
    """

    loaded: bool
    waiting: int
    written: int
    dropped: int
    refused: int
    failures: int
    failure: str
    last_write: float


class Metrics:
    """One server's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._polls = _Polls()
        self.registry.register(self._polls)
        self._refusals = Counter(
            "otaflux_requests_refused",
            "Requests of devices that were refused, by status and reason (`reasons.md`).",
            ["status", "reason"],
            registry=self.registry,
        )
        self._drops = Counter(
            "otaflux_connections_dropped",
            "Connections of devices that were dropped, by reason (`reasons.md`).",
            ["reason"],
            registry=self.registry,
        )
        self.tls_refused = Counter(
            "otaflux_tls_refused",
            "TLS connections refused, in the handshake or at a request, by port (device, internal) "
            "and reason (`reasons.md`).",
            ["port", "reason"],
            registry=self.registry,
        )
        self.tls_expiry = Gauge(
            "otaflux_tls_expiry_timestamp_seconds",
            "When what a TLS file holds ends, the first of it: certificate, client_ca, crl; by "
            "port.",
            ["port", "file"],
            registry=self.registry,
        )
        self.tls_replaced = Counter(
            "otaflux_tls_files_replaced",
            "How often changed TLS files came into use, by port.",
            ["port"],
            registry=self.registry,
        )
        self.tls_reload_failing = Gauge(
            "otaflux_tls_reload_failing",
            "1 while changed TLS files cannot be used and the ones before stay in use, by port.",
            ["port"],
            registry=self.registry,
        )
        self.internal_refused = Counter(
            "otaflux_internal_requests_refused",
            "Requests to the internal API that were refused, by status and reason (`reasons.md`).",
            ["status", "reason"],
            registry=self.registry,
        )
        self.reports = Counter(
            "otaflux_reports",
            "Reports of devices, by protocol and state.",
            ["protocol", "state"],
            registry=self.registry,
        )
        self.reports_ignored = Counter(
            "otaflux_reports_ignored",
            "Reports that name no release of the device's attempt, nor one that it may come from.",
            registry=self.registry,
        )
        self.claims = Counter(
            "otaflux_claims",
            "Offers, by what became of their claim in the database (Granted; Held: the device had "
            "it already; Limited: no slot; Concluded: it has its outcome already; Unavailable: "
            "the database could not be asked).",
            ["result"],
            registry=self.registry,
        )
        self.downloads = Counter(
            "otaflux_downloads",
            "Downloads, by protocol and result (Complete: all bytes in one response; Part: one "
            "range; Broken: the device went away, or the transfer was cut).",
            ["protocol", "result"],
            registry=self.registry,
        )
        self.download_bytes = Counter(
            "otaflux_download_bytes",
            "Bytes of artifacts handed to devices' connections.",
            ["protocol"],
            registry=self.registry,
        )
        self.pulls = Counter(
            "otaflux_artifact_pulls",
            "Artifacts pulled, by result: Stored, or the reason of the failure.",
            ["result"],
            registry=self.registry,
        )
        self.artifact_bytes = Gauge(
            "otaflux_artifact_store_bytes", "Size of stored artifacts.", registry=self.registry
        )
        self.artifacts = Gauge(
            "otaflux_artifacts",
            "Artifacts that policies list, by state.",
            ["state"],
            registry=self.registry,
        )
        self.policies = Gauge("otaflux_policies", "Policies in use.", registry=self.registry)
        self.policies_rejected = Counter(
            "otaflux_policies_rejected",
            "Published policies and groups that were refused, by reason (`reasons.md`).",
            ["kind", "reason"],
            registry=self.registry,
        )
        self.rejected = Gauge(
            "otaflux_rejected",
            "Policies and groups whose published form is refused now; the last good one is used.",
            registry=self.registry,
        )
        self.source_connected = Gauge(
            "otaflux_policy_source_connected",
            "1 while policies come from their source, 0 while the last known ones are served.",
            registry=self.registry,
        )
        self.policy_changed = Gauge(
            "otaflux_policy_last_change_timestamp_seconds",
            "When a policy or group in use last changed.",
            registry=self.registry,
        )
        self.source_synced = Gauge(
            "otaflux_policy_last_sync_timestamp_seconds",
            "When the source last gave a complete list.",
            registry=self.registry,
        )
        self.tokens = Gauge(
            "otaflux_device_tokens",
            "Lines of `identity.tokens` when they were read last: Known tokens, Refused lines.",
            ["state"],
            registry=self.registry,
        )
        self.devices = Gauge("otaflux_devices", "Devices remembered.", registry=self.registry)

    def watch_evidence(self, state: Callable[[], EvidenceState]) -> None:
        """Has what `state` gives shown."""
        self.registry.register(_EvidenceMetrics(state))

    def polled(self, protocol: str, reason: str) -> None:
        """Counts one answered poll."""
        self._polls.counts[protocol, reason] += 1

    def refused(self, status: int, reason: str) -> None:
        """Counts one request that was refused, by its `Refusal`."""
        self._refusals.labels(str(status), reason).inc()

    def dropped(self, reason: str) -> None:
        """Counts one connection that was dropped, by its `Drop`."""
        self._drops.labels(reason).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class _Polls(Collector):
    """Counts polls without a lock: only the event loop counts, and polls are many."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "otaflux_polls",
            "Polls answered, by protocol and reason of the decision.",
            labels=["protocol", "reason"],
        )
        for (protocol, reason), count in self.counts.items():
            family.add_metric([protocol, reason], count)
        yield family


class _EvidenceMetrics(Collector):
    """The record of what devices did, asked when metrics are."""

    def __init__(self, state: Callable[[], EvidenceState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        yield GaugeMetricFamily(
            "otaflux_evidence_loaded",
            "1 once what the database holds is known; until then every device gets Hold.",
            state.loaded,
        )
        yield GaugeMetricFamily(
            "otaflux_evidence_failing",
            "1 while the evidence database cannot be used: facts wait.",
            bool(state.failure),
        )
        yield GaugeMetricFamily(
            "otaflux_evidence_waiting_rows",
            "Attempts and devices with facts that are not in the database yet.",
            state.waiting,
        )
        yield GaugeMetricFamily(
            "otaflux_evidence_last_write_timestamp_seconds",
            "When facts were written to the database last.",
            state.last_write,
        )
        for name, text, value in (
            ("written", "Rows written to the evidence database.", state.written),
            ("dropped", "Rows lost because the buffer was full.", state.dropped),
            ("refused", "Rows lost because the database does not take them.", state.refused),
        ):
            yield CounterMetricFamily(f"otaflux_evidence_{name}_rows", text, value)
        yield CounterMetricFamily(
            "otaflux_evidence_write_failures", "Writes that failed.", state.failures
        )
