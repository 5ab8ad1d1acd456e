"""`otaflux-operator`: settings, logging, metrics, and the operator until a signal ends it."""

import argparse
import asyncio
import signal
import sys

import structlog
from prometheus_client import REGISTRY
from pydantic import ValidationError
from pydantic_settings import SettingsError

from otaflux_operator.kubernetes.leases import LeaseLost
from otaflux_operator.kubernetes.running import KubernetesOperator
from otaflux_operator.logs import log_to_stderr
from otaflux_operator.ports import Unavailable
from otaflux_operator.probes import Probes
from otaflux_operator.settings import Settings

_EXAMPLES = """\
examples:
  OTAFLUX_SERVER_URL=http://otaflux-server:8081 otaflux-operator
      in a pod, by its service account
  OTAFLUX_KUBECONFIG=~/.kube/config OTAFLUX_SERVER_URL=http://127.0.0.1:8081 otaflux-operator
      from outside of the cluster

settings (environment):
"""


def main() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 where it cannot go on, with 2 for bad settings."""
    fields = Settings.model_fields.items()
    variables = (f"  OTAFLUX_{name.upper()}\n      {field.description}" for name, field in fields)
    argparse.ArgumentParser(
        prog="otaflux-operator",
        description="The OtaFlux operator: releases firmware as FirmwareRollouts say.",
        epilog=_EXAMPLES + "\n".join(variables),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"otaflux-operator: {_problem(error)}\n")
        sys.exit(2)
    log_to_stderr(settings.log_level)
    try:
        sys.exit(asyncio.run(run(settings)))
    except Unavailable as error:
        structlog.get_logger(__name__).error("cannot start", why=str(error))
        sys.exit(1)


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
            log.error(
                "operator ended",
                error=type(error).__name__ if error else "no reason",
                why=str(error) if isinstance(error, LeaseLost) else "",
            )
            return 1
        ended.cancel()
    log.info("operator stopped")
    return 0


def _problem(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    found = error.errors(include_input=False, include_url=False)[0]
    return f"OTAFLUX_{str(found['loc'][0]).upper()}: {found['msg']}"


if __name__ == "__main__":
    main()
