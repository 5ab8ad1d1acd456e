"""What kopf logs, without its flood: one line per outage of the API server."""

import logging

from structlog import get_logger

from otaflux_operator.logs import Forwarding

QUIET = 60.0
"""Seconds without a failed request after which the next one is another outage.

kopf pauses up to 21 s between two attempts (`settings.networking.error_backoffs`).
"""

_REQUEST = "Request attempt "
_LAST = "; escalating: "
_CLOSED = ("Connector is closed", "TCP closed; will re-authenticate")

log = get_logger(__name__)


class Outages(Forwarding):
    """The handler of kopf's loggers.

    Each watch logs each of its failed requests: of those only the first of an outage is told,
    and one that is given up. That its own connections are closed, as at its end, is no news.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._failed_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, or none."""
        text = record.getMessage()
        if not text.startswith(_REQUEST):
            super().emit(record)
            return
        if any(closed in text for closed in _CLOSED):
            return
        again = record.created - self._failed_at < QUIET
        self._failed_at = record.created
        if _LAST in text:
            super().emit(record)
        elif not again:
            request, _, error = text.partition(": ")[2].partition(" -> ")
            log.warning(
                "the API server cannot be watched; tried again until it can",
                why=f"{request.partition('?')[0]}: {error.partition('(')[0]}",
            )


def forward_kopf() -> None:
    """From now on kopf's lines go to structlog, and nowhere else."""
    kopf = logging.getLogger("kopf")
    kopf.setLevel(logging.WARNING)  # one line per event and handler otherwise
    # That signals are not its own here is as it should be.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    if not any(isinstance(handler, Outages) for handler in kopf.handlers):
        kopf.addHandler(Outages())
    kopf.propagate = False
