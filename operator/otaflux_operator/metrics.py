"""What the operator counts."""

from prometheus_client import Counter, Gauge, Histogram

QUEUE_DEPTH = Gauge("otaflux_queue_depth", "Objects that wait to be reconciled now.")
RECONCILES = Counter(
    "otaflux_reconciles", "Reconciliations, by kind of object and result.", ["kind", "result"]
)
RECONCILE_SECONDS = Histogram(
    "otaflux_reconcile_seconds", "How long a reconciliation took, in seconds.", ["kind"]
)
RESOLUTIONS = Counter("otaflux_resolutions", "Lookups of artifacts that went well.")
REGISTRY_ERRORS = Counter(
    "otaflux_registry_errors",
    "Lookups of artifacts that failed, or that found what does not verify, by reason.",
    ["reason"],
)
POLICY_WRITES = Counter(
    "otaflux_policy_writes",
    "Policies and groups published, withdrawn, or restored after somebody else changed them.",
    ["kind", "result"],
)
STATUS_WRITES = Counter("otaflux_status_writes", "Statuses written.", ["kind"])
SERVER_ERRORS = Counter("otaflux_server_errors", "Questions to the servers without an answer.")
LEADER = Gauge(
    "otaflux_leader", "1 while this operator holds the Lease and works, 0 while it waits for it."
)
