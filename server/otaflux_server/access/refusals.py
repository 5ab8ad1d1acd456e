"""Callers of the internal API that are refused: counted, and logged without their secrets."""

import structlog

from otaflux_server.access.callers import STATUS, AccessRefusal
from otaflux_server.lines import Lines
from otaflux_server.metrics import Metrics

log = structlog.get_logger(__name__)


class AccessRefusals:
    """On the event loop only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lines: Lines[AccessRefusal] = Lines(_write)

    def note(self, reason: AccessRefusal, peer: str) -> int:
        """The status that a refusal of `peer` (its IP address; empty: unknown) is given."""
        status = STATUS[reason]
        self._metrics.internal_refused.labels(str(status), reason.value).inc()
        self._lines.note(reason, peer)
        return status


def _write(reason: AccessRefusal, peer: str, count: int) -> None:
    log.warning("internal API request refused", reason=reason.value, peer=peer, count=count)
