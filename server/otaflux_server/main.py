"""The command `otaflux-server`: the update server of a cluster. Settings come from OTAFLUX_…."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator

import structlog
import uvloop
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from otaflux_server import logs
from otaflux_server.identities.choosing import UNSET
from otaflux_server.kubernetes import KubernetesSource
from otaflux_server.registries import PullCredentials
from otaflux_server.serving import DataDirInUse, UpdateServer
from otaflux_server.settings import Settings
from otaflux_server.slices import seldom_collect
from otaflux_server.tls.generations import TlsUnusable

log = structlog.get_logger(__name__)

_EXAMPLES = """\
examples:
  otaflux-server
      in a pod: policies of all namespaces, by the pod's service account
  OTAFLUX_KUBECONFIG=~/.kube/config OTAFLUX_DATA_DIR=./data otaflux-server
      against a cluster from outside
  OTAFLUX_IDENTITY__KIND=Token OTAFLUX_IDENTITY__TOKENS=/etc/otaflux/tokens otaflux-server
      devices prove who they are by a token; OTAFLUX_IDENTITY__KIND has to be set
  OTAFLUX_NATIVE__DEFAULT_DEVICE=kitchen-1 otaflux-server
      for clients that send no device id

settings (environment):
"""


def update_server(settings: Settings) -> UpdateServer:
    """The update server of a cluster."""
    credentials = PullCredentials()
    return UpdateServer(
        settings, source=KubernetesSource(settings, credentials), credentials=credentials
    )


def main() -> None:
    """Runs until SIGTERM or SIGINT; exit status 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="otaflux-server",
        description="The OtaFlux update server: gives devices the firmware that policies say.",
        epilog=_EXAMPLES + "\n".join(_described(Settings, "OTAFLUX_")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        parser.exit(2, f"{_problem(error)}\n")
    if settings.identity.kind is None:
        parser.exit(2, f"otaflux-server: {UNSET}\n")
    logs.configure(settings)
    sys.exit(uvloop.run(_run(settings)))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    seldom_collect()
    try:
        async with update_server(settings):
            seldom_collect()
            await stop.wait()
            log.info("stopping", seconds=settings.shutdown_seconds)
    except (DataDirInUse, TlsUnusable, OSError) as error:
        log.error("cannot serve", error=str(error))
        return 1
    return 0


def _described(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _described(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"  {prefix}{name.upper()}\n      {field.description} Default: {field.default!r}"


def _problem(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return f"otaflux-server: {error}"
    lines = [
        f"otaflux-server: {_setting(found['loc'])}{found['msg']}"
        for found in error.errors(include_input=False, include_url=False)
    ]
    return "\n".join(lines)


def _setting(location: tuple[int | str, ...]) -> str:
    """`OTAFLUX_…: `; empty: several settings do not go together, and the message names them."""
    name = "__".join(str(part).upper() for part in location)
    return f"OTAFLUX_{name}: " if name else ""


if __name__ == "__main__":
    main()
