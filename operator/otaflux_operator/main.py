"""`otaflux-operator`: settings, logging, metrics, and the operator until a signal ends it."""

import asyncio
import logging
import signal
import sys

import structlog
from prometheus_client import REGISTRY

from otaflux_operator.kubernetes.running import KubernetesOperator
from otaflux_operator.probes import Probes
from otaflux_operator.settings import Settings


def main() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 where it cannot go on."""
    settings = Settings()
    _log_to_stderr(settings.log_level)
    sys.exit(asyncio.run(run(settings)))


async def run(settings: Settings) -> int:
    """The exit status."""
    log = structlog.get_logger(__name__)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        KubernetesOperator(settings) as running,
        Probes(settings.listen, running, REGISTRY),
    ):
        log.info(
            "operator started", server=settings.server_url, namespaces=settings.watch_namespaces
        )
        stopping, ended = asyncio.create_task(stop.wait()), asyncio.create_task(running.ended())
        await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ended.done():
            error = ended.exception()
            log.error("operator ended", error=type(error).__name__ if error else "no reason")
            return 1
        ended.cancel()
    log.info("operator stopped")
    return 0


def _log_to_stderr(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr)
    human = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()
