"""`otaflux-operator`: settings, logging, metrics, and the operator until a signal ends it."""

import asyncio
import signal
import sys

import structlog
from prometheus_client import REGISTRY

from otaflux_operator.kubernetes.running import KubernetesOperator
from otaflux_operator.logs import log_to_stderr
from otaflux_operator.probes import Probes
from otaflux_operator.settings import Settings


def main() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 where it cannot go on."""
    settings = Settings()
    log_to_stderr(settings.log_level)
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


if __name__ == "__main__":
    main()
